//! The same for several things, some of them at the same time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Builder;

/// Does something for each of `all`, at most `most` at a time; results stand in their order.
pub(crate) fn side_by_side<I: Sync, T: Send>(
    all: &[I],
    most: usize,
    one: &(dyn Fn(&I) -> T + Sync),
) -> Vec<T> {
    if all.len() <= 1 || most <= 1 {
        return all.iter().map(one).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = all.get(at)
        {
            done.push((at, one(item)));
        }
        done
    };
    let mut made: Vec<(usize, T)> = std::thread::scope(|scope| {
        // Where no thread is to be had there are fewer: this one works too.
        let more =
            (1..most.min(all.len())).map_while(|_| Builder::new().spawn_scoped(scope, work).ok());
        let threads: Vec<_> = more.collect();
        let mut made = work();
        for t in threads {
            made.extend(t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        made
    });
    made.sort_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, t)| t).collect()
}

/// As [`side_by_side`], until something fails: then nothing more is begun.
///
/// # Errors
/// That of the first of `all` that failed.
pub(crate) fn each_side_by_side<I: Sync, E: Send>(
    all: &[I],
    most: usize,
    one: &(dyn Fn(&I) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let failed = AtomicBool::new(false);
    let until = |item: &I| match failed.load(Ordering::Relaxed) {
        true => Ok(()),
        false => one(item).inspect_err(|_| failed.store(true, Ordering::Relaxed)),
    };
    side_by_side(all, most, &until).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_order_and_the_first_failure_ends_it() {
        let all: Vec<usize> = (0..100).collect();
        for most in [1, 4, 200] {
            assert_eq!(
                side_by_side(&all, most, &|n| n * 2),
                all.iter().map(|n| n * 2).collect::<Vec<_>>()
            );
            let begun = AtomicUsize::new(0);
            let e = each_side_by_side(&all, most, &|n| {
                begun.fetch_add(1, Ordering::Relaxed);
                if *n == 0 { Err("zero") } else { Ok(()) }
            });
            assert_eq!(e, Err("zero"));
            assert_eq!(each_side_by_side(&all, most, &|_| Ok::<(), ()>(())), Ok(()));
            assert!(begun.into_inner() >= 1);
        }
        assert!(side_by_side(&[], 4, &|n: &usize| *n).is_empty());
    }
}
