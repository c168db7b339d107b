//! Test programs with a `main` of their own, as the runners of tests call them.

/// Which of `names` are to run now; `None`: their names were asked for, and printed.
///
/// `cargo test WORD` gives its words to every program; cargo-nextest lists the names with
/// `--list --format terse`, those that are ignored with `--ignored` too, and calls the program for each
/// with `NAME --exact`.
pub fn chosen<'n>(names: &[&'n str], args: &[String]) -> Option<Vec<&'n str>> {
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let mut words = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--format" => drop(args.next()),
            flag if flag.starts_with('-') => {}
            word => words.push(word),
        }
    }
    let fits = |name: &str| match has("--exact") {
        true => words.contains(&name),
        false => words.iter().all(|w| name.contains(w)),
    };
    let chosen: Vec<&str> = names.iter().copied().filter(|name| fits(name)).collect();
    if !has("--list") {
        return Some(chosen);
    }
    // None of them is ignored.
    if !has("--ignored") {
        chosen.iter().for_each(|name| println!("{name}: test"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn as_the_runners_call_them() {
        let names = ["a::one", "a::one_more", "b::two"];
        for (line, want) in [
            ("", Some(&names[..])),
            ("--nocapture", Some(&names[..])),
            ("one", Some(&names[..2])),
            ("a::one --nocapture --exact", Some(&names[..1])),
            ("other", Some(&[])),
            ("--list --format terse", None),
            ("--list --format terse --ignored", None),
        ] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(chosen(&names, &args).as_deref(), want, "{line}");
        }
    }
}
