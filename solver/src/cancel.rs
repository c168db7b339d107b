//! One flag for a whole build, with callbacks so that a thread asleep in `poll` can be woken.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

type Waker = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inner {
    level: AtomicU8,
    wakers: Mutex<Vec<(u64, Waker)>>,
}

/// Cloned into everything that may have to stop. Cancelling is final.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Inner>);

/// Keeps a callback registered; dropped, it is gone.
pub struct OnCancel {
    token: CancelToken,
    id: u64,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody to stop, and wakes those who registered. A second call does nothing.
    pub fn cancel(&self) {
        if self.0.level.swap(1, Ordering::SeqCst) == 0 {
            for (_, wake) in self.0.wakers.lock().unwrap_or_else(|e| e.into_inner()).iter() {
                wake();
            }
        }
    }

    /// True once cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.level.load(Ordering::SeqCst) != 0
    }

    /// Calls `wake` when cancelled, at once when that has happened already. `wake` must be short
    /// and must not touch this token.
    pub fn on_cancel(&self, wake: impl Fn() + Send + Sync + 'static) -> OnCancel {
        let mut wakers = self.0.wakers.lock().unwrap_or_else(|e| e.into_inner());
        if self.is_cancelled() {
            wake();
        }
        let id = wakers.last().map_or(0, |(id, _)| id + 1);
        wakers.push((id, Box::new(wake)));
        OnCancel { token: self.clone(), id }
    }
}

impl Drop for OnCancel {
    fn drop(&mut self) {
        let mut wakers = self.token.0.wakers.lock().unwrap_or_else(|e| e.into_inner());
        wakers.retain(|(id, _)| *id != self.id);
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelToken({})", self.is_cancelled())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn wakes_once_and_late_comers_at_once() {
        let t = CancelToken::new();
        let n = Arc::new(AtomicUsize::new(0));
        let count = |n: &Arc<AtomicUsize>| {
            let n = n.clone();
            move || {
                n.fetch_add(1, Ordering::SeqCst);
            }
        };
        let gone = t.on_cancel(count(&n));
        drop(gone);
        let _kept = t.on_cancel(count(&n));
        t.cancel();
        t.cancel();
        assert_eq!(n.load(Ordering::SeqCst), 1);
        let _late = t.on_cancel(count(&n));
        assert_eq!(n.load(Ordering::SeqCst), 2);
    }
}
