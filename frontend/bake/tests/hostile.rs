//! Short files that stand for much, and files that are nested deeply: each ends in an error, soon.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rgraph_bake::{Definition, File, Inputs, Overrides, load, print};
use rgraph_ir::SourceMap;
use rgraph_ir::limits::MAX_BAKE_TARGETS;

fn read(name: &str, text: &str) -> Result<Definition, String> {
    let inputs = Inputs {
        lookup: &|_| None,
        environment: &[],
        read: &|_| Ok(None),
        local_platform: "linux/amd64".to_owned(),
        command_context: "cwd://".to_owned(),
        relative_paths: false,
        is_remote: false,
        now: 0,
        random: &|bytes| {
            bytes.fill(7);
            Ok(())
        },
    };
    let files = [File { name: name.to_owned(), text: Arc::from(text) }];
    load(&files, &inputs, &mut SourceMap::default()).map_err(|d| d[0].message.clone())
}

/// What this process has computed so far: others on the machine do not count (proc_pid_stat(5)).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let after = stat.rsplit(')').next().expect("a name in front");
    let ticks = after.split_whitespace().skip(11).take(2);
    Duration::from_millis(ticks.map(|t| t.parse::<u64>().expect("ticks") * 10).sum())
}

/// Reads and resolves; gives the error. Time is bounded also in a debug build.
fn fails(name: &str, text: &str) -> String {
    let start = cpu();
    let done = read(name, text).and_then(|d| {
        let all = d.resolve(&["t".to_owned()], &Overrides::default()).map_err(|d| d.message)?;
        Ok(print(&all).len())
    });
    let took = cpu() - start;
    let shown: String = text.chars().take(200).collect();
    assert!(took < Duration::from_secs(20), "{took:?} for {shown}");
    match done {
        Ok(n) => panic!("this gave {n} bytes: {shown}"),
        Err(e) => e,
    }
}

fn doubling(first: &str, next: impl Fn(usize) -> String, last: &str) -> String {
    let mut text = format!("variable \"a0\" {{ default = {first} }}\n");
    for i in 1..=40 {
        writeln!(text, "variable \"a{i}\" {{\n default = {}\n}}", next(i - 1)).expect("a String");
    }
    text + last
}

/// Hashes of passwords are made to be slow.
#[test]
fn slow_hashes_end() {
    for each in ["bcrypt(\"x\", 15)", "bcrypt(\"x\", 31)"] {
        let text = format!("target \"t\" {{ tags = [for n in range(1000) : {each}] }}\n");
        assert!(fails("docker-bake.hcl", &text).contains("steps"));
    }
}

#[test]
fn doubling_ends() {
    let t = "target \"t\" { args = { x = \"${a40}\" } }\n";
    for (text, want) in [
        (doubling("\"ab\"", |i| format!("\"${{a{i}}}${{a{i}}}\""), t), "larger than"),
        (doubling("[1]", |i| format!("[a{i}, a{i}]"), t), "larger than"),
        (doubling("{a = 1}", |i| format!("{{a = a{i}, b = a{i}}}"), t), "larger than"),
        (doubling("[1]", |i| format!("concat(a{i}, a{i})"), t), "larger than"),
        (doubling("\"ab\"", |i| format!("join(\"\", [a{i}, a{i}])"), t), "larger than"),
        (doubling("\"ab\"", |i| format!("format(\"%s%s\", a{i}, a{i})"), t), "larg"),
        (doubling("\"aa\"", |i| format!("replace(a{i}, \"a\", a{i})"), t), "larger than"),
        (doubling("\"aa\"", |i| format!("regex_replace(a{i}, \"a\", a{i})"), t), "larger than"),
        (doubling("[1, 2]", |i| format!("setproduct(a{i}, a{i})"), t), "larger than"),
        (doubling("\"a\\\"\"", |i| format!("jsonencode([a{i}, a{i}])"), t), "larger than"),
        (
            doubling("\"a\\n\"", |i| format!("indent(1000, \"${{a{i}}}${{a{i}}}\")"), t),
            "larger than",
        ),
        (doubling("1", |i| format!("[for x in [1, 2] : a{i}]"), t), "larger than"),
        (doubling("\"%\"", |i| format!("<<E\n${{a{i}}}${{a{i}}}\nE"), t), "larger than"),
    ] {
        let e = fails("a.hcl", &text);
        assert!(e.contains(want), "{e} for {}", &text[..200]);
    }
    // Attributes at the top, and `try`, are no way around.
    let mut top = "a0 = \"ab\"\n".to_owned();
    for i in 1..=40 {
        writeln!(top, "a{i} = try(\"${{a{0}}}${{a{0}}}\", \"\")", i - 1).expect("a String");
    }
    assert!(fails("a.hcl", &(top + t)).contains("larger than"));
    let mut json = String::from("{\"variable\": {\"a0\": {\"default\": \"ab\"}");
    for i in 1..=40 {
        write!(json, ", \"a{i}\": {{\"default\": \"${{a{0}}}${{a{0}}}\"}}", i - 1)
            .expect("a String");
    }
    assert!(fails("a.json", &(json + "}, \"target\": {\"t\": {}}}")).contains("larger than"));
}

#[test]
fn loops_end() {
    let arg = |e: &str| format!("target \"t\" {{ args = {{ x = {e} }} }}");
    for (text, want) in [
        (arg("length(range(1000000000))"), "range has more items|larger than"),
        (arg("length(range(0, 1e300))"), "range has more items"),
        (arg("length(range(60000))"), ""),
        (arg("length([for a in range(50000) : [for b in range(50000) : 1]])"), "steps|together"),
        (
            arg(
                "length([for a in range(5000) : [for b in range(5000) : [for c in range(5000) : 1 if false]]])",
            ),
            "steps|together",
        ),
        (
            arg("\"%{ for a in range(50000) }%{ for b in range(50000) }x%{ endfor }%{ endfor }\""),
            "larger than|steps",
        ),
        (
            arg("\"%{ for a in range(50000) }%{ for b in range(50000) }%{ endfor }%{ endfor }\""),
            "steps|together",
        ),
        (arg("format(\"%999999999d\", 1)"), "characters wide"),
        (arg("format(\"%.999999999f\", 1)"), "characters wide"),
        (arg("indent(1e15, \"a\\nb\")"), "larger than"),
        (arg("regex(\"(a{1000}){1000}\", \"a\")"), "repetitions written out"),
        (
            arg("regex(\"(?:\\\\pL{1,40}x){9}y\", join(\"\", [for i in range(50000) : \"xa\"]))"),
            "steps|repetitions",
        ),
        (arg("length(regexall(\"a.*z|a\", join(\"\", [for i in range(60000) : \"a\"])))"), "steps"),
        (
            arg("regex_replace(join(\"\", [for i in range(60000) : \"a\"]), \"a(.*b)?\", \"\")"),
            "steps",
        ),
        (arg("length(setproduct(range(2000), range(2000)))"), "larger than"),
        (
            arg("length(chunklist(range(60000), 1)) + length(setproduct(range(400), range(400)))"),
            "larger than",
        ),
    ] {
        if want.is_empty() {
            // Within the bounds all is well.
            assert!(read("a.hcl", &text).is_ok());
            continue;
        }
        let e = fails("a.hcl", &text);
        assert!(want.split('|').any(|w| e.contains(w)), "{e} for {text}");
    }
}

#[test]
fn functions_that_call_themselves_end() {
    let f = "function \"f\" {\n params = [n]\n result = f(n + 1) + f(n)\n}\ntarget \"t\" { args = { x = f(1) } }";
    assert!(fails("a.hcl", f).contains("levels"));
    let deep = "function \"f\" {\n params = [n]\n result = n == 0 ? 1 : f(n - 1) + f(n - 1)\n}\n\
                target \"t\" { args = { x = f(100) } }";
    assert!(fails("a.hcl", deep).contains("steps"));
    let list = "function \"f\" {\n params = [n]\n result = n == 0 ? [1] : [f(n - 1)]\n}\n\
                target \"t\" { args = { x = length(f(200)) } }";
    assert!(fails("a.hcl", list).contains("levels"));
}

#[test]
fn long_chains_end() {
    let mut text = "variable \"a0\" { default = 1 }\n".to_owned();
    for i in 1..20_000 {
        writeln!(text, "variable \"a{i}\" {{ default = a{} }}", i - 1).expect("a String");
    }
    // Sorted by name, the first that is asked for is not the deepest; some is.
    assert!(
        fails("a.hcl", &format!("{text}target \"t\" {{ args = {{ x = a19999 }} }}"))
            .contains("levels")
    );

    let chain = |attr: &str| {
        let mut text = "target \"t0\" {}\n".to_owned();
        for i in 1..3_000 {
            let line = attr.replace('#', &format!("t{}", i - 1));
            writeln!(text, "target \"t{i}\" {{ {line} }}").expect("a String");
        }
        text + &format!("target \"t\" {{ {} }}", attr.replace('#', "t2999"))
    };
    assert!(fails("a.hcl", &chain("inherits = [\"#\"]")).contains("levels"));
    assert!(fails("a.hcl", &chain("contexts = { c = \"target:#\" }")).contains("levels"));
    let mut groups = String::new();
    for i in 0..3_000 {
        writeln!(groups, "group \"g{i}\" {{ targets = [\"g{}\"] }}", i + 1).expect("a String");
    }
    assert!(fails("a.hcl", &(groups + "group \"t\" { targets = [\"g0\"] }")).contains("levels"));
}

#[test]
fn diamonds_cost_no_more_than_their_parts() {
    let mut text =
        "target \"t0\" { args = { x = 1 } }\ngroup \"g0\" { targets = [\"t0\"] }\n".to_owned();
    for i in 1..100 {
        let p = i - 1;
        writeln!(
            text,
            "target \"t{i}\" {{\n inherits = [\"t{p}\", \"t{p}\"]\n contexts = {{ a = \"target:t{p}\", b = \"target:t{p}\" }}\n \
             annotations = [\"k=v\"]\n ulimits = [\"nofile=1\"]\n}}\ngroup \"g{i}\" {{ targets = [\"g{p}\", \"g{p}\", \"t{i}\"] }}"
        )
        .expect("a String");
    }
    let start = cpu();
    let all = read("a.hcl", &text).expect("it reads");
    let all = all.resolve(&["g99".to_owned()], &Overrides::default()).expect("it resolves");
    assert_eq!(all.targets.len(), 100);
    assert_eq!(all.targets["t99"].annotations.as_ref().map(Vec::len), Some(1));
    assert_eq!(all.in_order().len(), 100);
    assert!(cpu() - start < Duration::from_secs(10), "{:?}", cpu() - start);
}

#[test]
fn many_targets_end() {
    let axis = format!("[{}]", vec!["1"; 100].join(","));
    let name = "name = \"a-${a}-${b}-${c}-${d}\"";
    let text = format!(
        "target \"t\" {{\n {name}\n matrix = {{ a = {axis}, b = {axis}, c = {axis}, d = {axis} }}\n}}"
    );
    assert!(fails("a.hcl", &text).contains(&format!("more than {MAX_BAKE_TARGETS} targets")));
    let text = "target \"t\" {\n name = \"a-${a}\"\n matrix = { a = range(5001) }\n}";
    assert!(fails("a.hcl", text).contains("more than"));
    let many: String = (0..=MAX_BAKE_TARGETS).map(|i| format!("target \"t{i}\" {{}}\n")).collect();
    assert!(fails("a.hcl", &many).contains("more than"));
    // A large value in each of many targets.
    let text = "variable \"v\" { default = join(\"\", [for i in range(30000) : \"0123456789\"]) }\n\
                target \"t\" {\n name = \"t-${a}\"\n matrix = { a = range(4000) }\n args = { v = \"${v}.\" }\n}";
    let e = fails("a.hcl", text);
    assert!(e.contains("together") || e.contains("steps"), "{e}");
    // Inherited, it counts again.
    let text = "target \"b\" { args = { v = join(\"\", [for i in range(30000) : \"0123456789\"]) } }\n\
                target \"t\" {\n name = \"t-${a}\"\n matrix = { a = range(4000) }\n inherits = [\"b\"]\n}";
    let e = fails("a.hcl", text);
    assert!(e.contains("together"), "{e}");
}

#[test]
fn deep_nesting_ends() {
    let n = 100_000;
    let arg = |e: String| format!("target \"t\" {{ args = {{ x = {e} }} }}");
    for text in [
        arg("(".repeat(n)),
        arg("(".repeat(n) + "1" + &")".repeat(n)),
        arg("[".repeat(n) + &"]".repeat(n)),
        arg("{a=".repeat(n) + "1" + &"}".repeat(n)),
        arg("!".repeat(n) + "true"),
        arg("-".repeat(n) + "1"),
        arg("1".to_owned() + &"+1".repeat(n)),
        arg("1".to_owned() + &" == 1 ? 2 : 1".repeat(n)),
        arg("\"${".repeat(n) + "1" + &"}\"".repeat(n)),
        arg("f(".repeat(n) + &")".repeat(n)),
        arg("a".to_owned() + &".a".repeat(n)),
        arg("a".to_owned() + &"[0]".repeat(n)),
        arg("[for a in ".repeat(n)),
        arg("\"".to_owned() + &"%{ if true }".repeat(n) + "\""),
        "a \"t\" {\n".repeat(n),
        "{ ".repeat(n),
    ] {
        fails("a.hcl", &text);
    }
    for text in [
        "[".repeat(n),
        "{\"a\":".repeat(n),
        format!("{{\"target\":{{\"t\":{{\"args\":{}", "[".repeat(n)),
    ] {
        fails("a.json", &text);
    }
    let template = "\\\"${".repeat(1_000);
    fails(
        "a.json",
        &format!("{{\"target\": {{\"t\": {{\"args\": {{\"x\": \"${{{template}\"}}}}}}}}"),
    );
    for text in ["[".repeat(n), "- ".repeat(n), "a: {".repeat(n), "? ".repeat(n)] {
        fails("a.yml", &text);
    }
}

#[test]
fn yaml_aliases_end() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..40 {
        let p = i - 1;
        writeln!(text, "a{i}: &a{i} [*a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}]")
            .expect("a String");
    }
    assert!(fails("a.yml", &text).contains("stands for more than"));
    let mut text = "a0: &a0 {k: v}\n".to_owned();
    for i in 1..60 {
        let p = i - 1;
        writeln!(text, "a{i}: &a{i}\n  <<: [*a{p}, *a{p}]\n  k{i}: v").expect("a String");
    }
    assert!(fails("a.yml", &text).contains("stands for more than"));
    fails("a.yml", "a: &a [*a]");
    // A large value in many places.
    let large = "x".repeat(500_000);
    let mut text = format!("x: &x {large}\nservices:\n");
    for i in 0..1_000 {
        writeln!(text, "  s{i}: {{build: {{dockerfile_inline: *x}}}}").expect("a String");
    }
    assert!(fails("a.yml", &text).contains("together"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever the text, there is an answer and no panic.
    #[test]
    fn any_text_is_answered(
        text in "(target|variable|group|function|\"a\"|\"b\"| |\\{|\\}|=|\\[|\\]|\n|default|inherits|tags|args|\\$\\{|\"|1|\\+|for|in|:|\\?|a|\\(|\\)|\\.|\\*|<<E|E|%\\{ if|~|matrix|name|upper|range|null){0,60}",
    ) {
        for name in ["a.hcl", "a.json", "a.yml", "-"] {
            if let Ok(all) = read(name, &text) {
                let _ = all.resolve(&["a".to_owned()], &Overrides::default());
            }
        }
    }

    /// Cut anywhere, changed anywhere.
    #[test]
    fn a_damaged_file_is_answered(at in 0usize..2_000, byte in any::<char>()) {
        const TEXT: &str = "variable \"V\" {\n type = list(string)\n default = [\"x\", \"y\"]\n}\n\
            function \"f\" {\n params = [a]\n variadic_params = b\n result = \"${a}-${length(b)}\"\n}\n\
            target \"t\" {\n name = \"t-${v}\"\n matrix = { v = V }\n args = { x = f(v, 1, 2), y = { a = 1 }.a }\n \
            dockerfile-inline = <<-E\n  FROM scratch\n  %{ for i in V }LABEL ${i}=1 %{ endfor }\n  E\n\
            secret = [\"id=a,src=b\", { id = \"c\" }]\n output = [\"type=oci,dest=x\"]\n}\n";
        let at = TEXT.floor_char_boundary(at.min(TEXT.len()));
        let mut changed = TEXT.to_owned();
        changed.insert(at, byte);
        for text in [&TEXT[..at], &changed] {
            if let Ok(all) = read("a.hcl", text) {
                let _ = all.resolve(&["t".to_owned()], &Overrides::default());
            }
        }
    }
}
