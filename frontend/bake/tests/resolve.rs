//! Definitions to resolved targets, by what the format's documentation says.

use std::sync::Arc;

use rgraph_bake::{Definition, File, Inputs, Listing, Overrides, Resolved, Target, load, print};
use rgraph_ir::SourceMap;

fn files(all: &[(&str, &str)]) -> Vec<File> {
    all.iter().map(|(n, t)| File { name: (*n).to_owned(), text: Arc::from(*t) }).collect()
}

fn read(all: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Definition, String> {
    let environment: Vec<_> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let lookup = |name: &str| environment.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let inputs = Inputs {
        lookup: &lookup,
        environment: &environment,
        read: &|_| Ok(None),
        local_platform: "linux/amd64".to_owned(),
        command_context: "cwd://".to_owned(),
        relative_paths: false,
        is_remote: false,
        now: 1_700_000_000,
        random: &|bytes| {
            bytes.fill(7);
            Ok(())
        },
    };
    let mut sources = SourceMap::default();
    load(&files(all), &inputs, &mut sources).map_err(|d| {
        let d = &d[0];
        let at = d.span().map(|s| format!("{}: ", sources.locate(s))).unwrap_or_default();
        format!("{at}{}", d.message)
    })
}

fn resolve(hcl: &str, names: &[&str]) -> Result<Resolved, String> {
    set(hcl, names, &[])
}

fn set(hcl: &str, names: &[&str], lines: &[&str]) -> Result<Resolved, String> {
    let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
    let overrides = Overrides::parse(&lines, &|_| None)?;
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    read(&[("docker-bake.hcl", hcl)], &[])?.resolve(&names, &overrides).map_err(|d| d.message)
}

fn target(hcl: &str, name: &str) -> Target {
    resolve(hcl, &[name]).unwrap_or_else(|e| panic!("{e}")).targets[name].clone()
}

/// The value of an expression, as an argument.
fn value(expression: &str) -> Result<String, String> {
    let hcl = format!("target \"t\" {{ args = {{ v = {expression} }} }}");
    let t = resolve(&hcl, &["t"])?.targets["t"].clone();
    Ok(t.args.get("v").cloned().unwrap_or_else(|| "null".to_owned()))
}

#[test]
fn expressions() {
    for (expression, want) in [
        ("1 + 2 * 3", "7"),
        ("7 / 2", "3.5"),
        ("7 % 4", "3"),
        ("-(1 - 3)", "2"),
        ("9007199254740993", "9007199254740993"),
        ("1e3", "1000"),
        ("0.1", "0.1"),
        ("1 < 2 && !false ? \"y\" : \"n\"", "y"),
        ("true || 1 / 0 == 1", "true"),
        ("null", "null"),
        ("\"a${1}b${true}\"", "a1btrue"),
        ("\"$${a}%%{b}\"", "${a}%{b}"),
        ("\"${[1, 2][1]}\"", "2"),
        ("{a = {b = [3]}}.a.b[0]", "3"),
        ("{a = 1}[\"a\"]", "1"),
        ("jsonencode([{a = 1}, {a = 2}][*].a)", "[1,2]"),
        ("[{a = 1}, {a = 2}].*.a[1]", "2"),
        ("join(\",\", [for x in [1, 2, 3] : x * 2 if x != 2])", "2,6"),
        ("join(\",\", [for i, x in [\"a\", \"b\"] : \"${i}${x}\"])", "0a,1b"),
        ("jsonencode({for k, v in {a = 1} : upper(k) => v})", "{\"A\":1}"),
        (
            "jsonencode({for x in [\"a1\", \"a2\"] : substr(x, 0, 1) => x...})",
            "{\"a\":[\"a1\",\"a2\"]}",
        ),
        ("\"%{ for x in [1, 2] }<${x}>%{ endfor }\"", "<1><2>"),
        ("\"%{ if 1 == 2 }a%{ else }b%{ endif }\"", "b"),
        ("\"a ${~ \"b\" ~} c\"", "abc"),
        ("max([1, 3, 2]...)", "3"),
        ("\"1\" == 1", "false"),
        ("\"1\" + 2", "3"),
        ("BAKE_LOCAL_PLATFORM", "linux/amd64"),
        ("timestamp()", "2023-11-14T22:13:20Z"),
        ("formattimestamp(\"YYYY-MM-DD'T'hh\", \"2024-02-29T23:30:00-01:00\")", "2024-02-29T23"),
        ("unixtimestampparse(1690328596).iso_week", "30"),
        ("try(nope, \"d\")", "d"),
        ("can(1 / 0)", "false"),
        ("convert(\"5\", number) + 1", "6"),
        ("replace(\"1.2.3\", \".\", \"-\")", "1-2-3"),
        ("regex_replace(\"v1.2\", \"v([0-9]+)\", \"$1\")", "1.2"),
        ("regex(\"([a-z]+)-([0-9]+)\", \"ab-12\")[1]", "12"),
        ("sanitize(\"a/b.c\")", "a_b_c"),
        ("semvercmp(\"1.5.0\", \">= 1.2, < 2\")", "true"),
        (
            "format(\"%s-%03d|%5.1f|%-4s|%q\", \"a\", 7, 1.25, \"x\", \"y\")",
            "a-007|  1.2|x   |\"y\"",
        ),
        ("jsonencode(setproduct([1], [2, 3]))", "[[1,2],[1,3]]"),
        ("jsonencode(range(1, 10, 4))", "[1,5,9]"),
        ("lookup({a = 1}, \"b\", 9)", "9"),
        ("sha256(\"abc\")", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("md5(\"abc\")", "900150983cd24fb0d6963f7d28e17f72"),
        ("sha1(\"abc\")", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("base64decode(base64encode(\"hé\"))", "hé"),
        ("urlencode(\"a b/c\")", "a+b%2Fc"),
        ("title(\"ab cd\")", "Ab Cd"),
        ("index([1, 2], 0)", "1"),
        ("indexof([1, 2], 2)", "1"),
        ("notequal(\"\", \"x\")", "true"),
        ("chomp(<<EOT\nline\nEOT\n)", "line"),
        ("basename(\"a/b\")", "b"),
        ("dirname(\"a/b\")", "a"),
        ("jsonencode(flatten([1, [2, [3]]]))", "[1,2,3]"),
        ("jsonencode(csvdecode(\"a,b\\n1,2\"))", "[{\"a\":\"1\",\"b\":\"2\"}]"),
        ("timeadd(\"2024-01-01T00:00:00Z\", \"-1h30m\")", "2023-12-31T22:30:00Z"),
    ] {
        assert_eq!(value(expression).as_deref(), Ok(want), "{expression}");
    }
}

/// Addresses, times, versions and names, with what buildx at commit 461836b gives.
#[test]
fn more_functions() {
    for (expression, want) in [
        ("cidrhost(\"10.0.0.0/16\", 5)", "10.0.0.5"),
        ("cidrhost(\"10.1.2.240/28\", -1)", "10.1.2.255"),
        ("cidrhost(\"2001:db8::/64\", 258)", "2001:db8::102"),
        ("cidrhost(\"10.0.0.9/32\", 0)", "10.0.0.9"),
        ("cidrnetmask(\"10.0.0.0/13\")", "255.248.0.0"),
        ("cidrnetmask(\"0.0.0.0/0\")", "0.0.0.0"),
        ("cidrsubnet(\"10.0.0.0/16\", 4, 2)", "10.0.32.0/20"),
        ("cidrsubnet(\"fd00:fd12:3456:7890::/56\", 16, 162)", "fd00:fd12:3456:7800:a200::/72"),
        ("cidrsubnet(\"0.0.0.0/0\", 32, 7)", "0.0.0.7/32"),
        ("cidrsubnet(\"::/0\", 0, 0)", "::/0"),
        (
            "jsonencode(cidrsubnets(\"10.1.0.0/16\", 4, 4, 8, 4))",
            "[\"10.1.0.0/20\",\"10.1.16.0/20\",\"10.1.32.0/24\",\"10.1.48.0/20\"]",
        ),
        (
            "jsonencode(cidrsubnets(\"255.255.255.0/24\", 1, 1))",
            "[\"255.255.255.0/25\",\"255.255.255.128/25\"]",
        ),
        ("jsonencode(cidrsubnets(\"10.0.0.0/8\"))", "[]"),
        ("uuidv5(\"dns\", \"example.com\")", "cfbff0d1-9375-5685-968c-48ce8b15ae17"),
        (
            "uuidv5(\"{6BA7B810-9dad-11d1-80b4-00c04fd430c8}\", \"example.com\")",
            "cfbff0d1-9375-5685-968c-48ce8b15ae17",
        ),
        (
            "uuidv5(\"URN:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8\", \"example.com\")",
            "cfbff0d1-9375-5685-968c-48ce8b15ae17",
        ),
        ("uuidv4()", "07070707-0707-4707-8707-070707070707"),
        // As crypt(5) gives it for this salt.
        (
            "bcrypt(\"mypassword\", 4)",
            "$2a$04$/uaF/uaF/uaF/uaF/uaF/unkcG6TGr8mTs6ncNWUn5kYYbhopxOqi",
        ),
        (
            "formatdate(\"D MMM YYYY, H:mmaa ZZZ\", \"2024-02-29T23:30:00-01:00\")",
            "29 Feb 2024, 11:30pm -0100",
        ),
        ("formatdate(\"''hh' o''clock'Z\", \"2025-09-16T12:00:00Z\")", "'12 o'clockZ"),
        ("formattimestamp(\"X\", \"2015-10-21T00:00:00Z\")", "1445385600"),
        ("formattimestamp(\"X\", 1700000000000)", "1700000000000"),
        ("formattimestamp(\"X\", -62167219201)", "-62167219201"),
        ("formattimestamp(\"YYYY\", 253402300799)", "9999"),
        ("unixtimestampparse(-62167219200).iso_year", "-1"),
        ("formattimestamp(\"EEEE ZZZZZ\", 1445385600)", "Wednesday +00:00"),
        ("timeadd(\"2024-02-29T23:30:00.7-01:30\", \"1.5h300ms\")", "2024-03-01T01:00:01-01:30"),
        ("timeadd(\"2024-01-01T00:00:00Z\", \"-1ns\")", "2023-12-31T23:59:59Z"),
        ("bytesslice(\"Docker\", 0, 3)", "Doc"),
    ] {
        assert_eq!(value(expression).as_deref(), Ok(want), "{expression}");
    }
    for (expression, want) in [
        ("cidrhost(\"10.0.0.0/30\", 4)", "no host numbered 4"),
        ("cidrhost(\"10.0.0.0/30\", -5)", "no host numbered -5"),
        ("cidrhost(\"10.0.0.1\", 4)", "no network such as"),
        ("cidrhost(\"10.0.0.0/33\", 4)", "no network such as"),
        ("cidrsubnet(\"10.0.0.0/16\", 2, 4)", "no network numbered 4"),
        ("cidrsubnet(\"10.0.0.0/16\", 17, 0)", "not 17 bits left"),
        ("cidrsubnet(\"::/16\", 33, 0)", "0 to 32 bits"),
        ("cidrsubnets(\"10.0.0.0/24\", 1, 1, 1)", "no room for one more"),
        ("cidrsubnets(\"255.255.255.255/31\", 1, 1, 1)", "no room for one more"),
        ("cidrsubnets(\"10.0.0.0/24\", 0)", "1 to 32 bits"),
        ("uuidv5(\"nope\", \"x\")", "no namespace"),
        ("uuidv5(\"6ba7b8109-dad-11d1-80b4-00c04fd430c8\", \"x\")", "no namespace"),
        ("uuidv5(\"urn:uuid:6ba7b8109dad11d180b400c04fd430c8\", \"x\")", "no namespace"),
        ("uuidv5(\"urn:uuid:é\", \"x\")", "no namespace"),
        ("bcrypt(\"x\", 32)", "up to 31"),
        ("bcrypt(\"x\", 31)", "steps"),
        ("bcrypt(format(\"%073d\", 1))", "at most 72 bytes"),
        ("formatdate(\"X\", \"2025-09-16T12:00:00Z\")", "no part of a time"),
        ("formatdate(\"D\", \"2025-02-30T12:00:00Z\")", "no time of RFC 3339"),
        ("timeadd(\"2024-01-01T00:00:00Z\", \"1d\")", "no duration"),
        ("timeadd(\"9999-12-31T23:59:59Z\", \"1s\")", "out of range"),
        ("formattimestamp(\"YYYY\", 1700000000000)", "the time is out of range"),
        ("unixtimestampparse(253402300800)", "the time is out of range"),
        ("unixtimestampparse(-62167219201)", "the time is out of range"),
        ("bytesslice(\"é\", 0, 1)", "no such part"),
    ] {
        let e = value(expression).expect_err(expression);
        assert!(e.contains(want), "{expression}: {e}");
    }
}

#[test]
fn versions_and_bounds() {
    for (version, bounds, want) in [
        ("1.2.3", "1.2", true),
        ("1.3.0", "1.2", false),
        ("1.9.0", "~1", true),
        ("1.3.0", "~1.2.3", false),
        ("1.2.9", "~> 1.2.3", true),
        ("0.2.9", "^0.2.3", true),
        ("0.3.0", "^0.2.3", false),
        ("0.0.4", "^0.0.3", false),
        ("0.9.0", "^0", true),
        ("2.0.0", "^1.2", false),
        ("1.2.9", "> 1.2", false),
        ("1.3", ">1.2", true),
        ("1.2.9", "<= 1.2", true),
        ("1.2.9", "< 1.2", false),
        ("1.2.9", "!= 1.2", false),
        ("1.2.9", "!=1.2.8", true),
        ("1.5.0", ">= 1.2 < 2", true),
        ("3.1.0", ">= 1.2, < 2 || 3.x", true),
        ("1.4.5", "1.2 - 1.4.5", true),
        ("1.4.6", "1.2 - 1.4.5", false),
        ("1.3.0", "1.2 - 1.4, < 2", true),
        ("1.3.0", "1.2 - 1.4 < 1.3", false),
        ("9.9.9", "*", true),
        ("1.2.3-rc.1", ">= 1.2", false),
        ("1.2.3-rc.1", ">= 1.2-0", true),
        ("1.2.3-rc.11", "> 1.2.3-rc.2, < 1.2.3", true),
        ("1.2.3-beta", "< 1.2.3-rc.1", true),
        ("1.2.3-9", "< 1.2.3-a", true),
        ("v1.2.3+build.5", "= 1.2.3", true),
        ("3.23", ">= 3.20", true),
    ] {
        let expression = format!("semvercmp(\"{version}\", \"{bounds}\")");
        assert_eq!(value(&expression), Ok(want.to_string()), "{expression}");
    }
    for bounds in [
        "",
        ">",
        "1.2.3.4",
        "1.2 || ",
        ">> 1",
        "1.2;",
        "1.2-",
        "a",
        "1.2,,1.3",
        "1.2,",
        "1.2 - 1.4,",
    ] {
        let expression = format!("semvercmp(\"1.2.3\", \"{bounds}\")");
        assert!(value(&expression).is_err(), "{expression}");
    }
    assert!(value("semvercmp(\"1.x\", \"1\")").is_err());
}

#[test]
fn wrong_expressions() {
    for (expression, want) in [
        ("nope", "there is no variable named `nope`"),
        ("1 / 0", "divides by zero"),
        ("lowr(\"A\")", "there is no such function"),
        ("rsadecrypt(\"\", \"\")", "not supported"),
        ("lower()", "it takes 1 argument, not 0"),
        ("[1][2]", "no item 2"),
        ("{abc = 1}.abd", "no attribute `abd`"),
        ("{for x in [1, 1] : x => x}", "two items have the key `1`"),
        ("\"${[1]}\"", "expected a string, found a list"),
        ("\"x${null}\"", "null"),
        ("\"a\" + 1", "`a` is none"),
        ("target.t.args", "needs itself"),
        ("regex(\"(\", \"a\")", "the pattern is none"),
    ] {
        let e = value(expression).expect_err(expression);
        assert!(e.contains(want), "{expression}: {e}");
        // Every error says where.
        assert!(e.starts_with("docker-bake.hcl:1: "), "{expression}: {e}");
    }
}

const DOCS: &str = r#"
variable "TAG" {
  default = "latest"
}
group "default" {
  targets = ["db", "webapp-dev"]
}
target "webapp-dev" {
  dockerfile = "Dockerfile.webapp"
  tags = ["docker.io/username/webapp:${TAG}"]
}
target "webapp-release" {
  inherits = ["webapp-dev"]
  platforms = ["linux/amd64", "linux/arm64"]
  labels = { note = "<${"$"}{x}>" }
}
target "db" {
  context = "./src//www/"
  no-cache = false
  args = { N = 1, GONE = null }
}
"#;

#[test]
fn prints_as_buildx_does() {
    let got = print(&resolve(DOCS, &["default", "webapp-release"]).expect("it resolves"));
    let want = r#"{
  "group": {
    "default": {
      "targets": [
        "db",
        "webapp-dev",
        "webapp-release"
      ]
    }
  },
  "target": {
    "db": {
      "context": "src/www",
      "dockerfile": "Dockerfile",
      "args": {
        "N": "1"
      },
      "no-cache": false
    },
    "webapp-dev": {
      "context": ".",
      "dockerfile": "Dockerfile.webapp",
      "tags": [
        "docker.io/username/webapp:latest"
      ]
    },
    "webapp-release": {
      "context": ".",
      "dockerfile": "Dockerfile.webapp",
      "labels": {
        "note": "\u003c$${x}\u003e"
      },
      "tags": [
        "docker.io/username/webapp:latest"
      ],
      "platforms": [
        "linux/amd64",
        "linux/arm64"
      ]
    }
  }
}
"#;
    assert_eq!(got, want);
}

#[test]
fn a_later_parent_counts_more() {
    let hcl = r#"
target "app-dev" {
  args = { GO_VERSION = "1.20", BUILDX_EXPERIMENTAL = 1 }
  tags = ["docker.io/username/myapp"]
  dockerfile = "app.Dockerfile"
  cache-from = ["user/app:cache"]
  secret = ["id=a,src=one", "id=b,src=b"]
}
target "_release" {
  args = { BUILDKIT_CONTEXT_KEEP_GIT_DIR = 1, BUILDX_EXPERIMENTAL = 0 }
  cache-from = [{ type = "local", src = "c" }, "user/app:cache"]
  secret = [{ id = "a", env = "TWO" }]
}
target "app-release" {
  inherits = ["app-dev", "_release"]
}
"#;
    let t = target(hcl, "app-release");
    assert_eq!(t.args["BUILDX_EXPERIMENTAL"], "0");
    assert_eq!(t.args["GO_VERSION"], "1.20");
    assert_eq!(t.dockerfile.as_deref(), Some("app.Dockerfile"));
    let lines: Vec<_> = t.cache_from.iter().flatten().map(|e| e.line()).collect();
    assert_eq!(lines, ["user/app:cache", "type=local,src=c"]);
    let secrets: Vec<_> = t.secrets.iter().flatten().map(|s| s.line()).collect();
    assert_eq!(secrets, ["id=a,env=TWO", "id=b,src=b"]);
}

#[test]
fn a_matrix_makes_targets() {
    let hcl = r#"
target "app" {
  name = "app-${tgt}-${replace(version, ".", "-")}"
  matrix = {
    tgt = ["foo", "bar"]
    version = ["1.0", "2.0"]
  }
  target = tgt
  args = { VERSION = version }
}
target "one" {
  name = "one-${item.tgt}"
  matrix = { item = [{ tgt = "x" }, { tgt = "y" }] }
  args = { OTHER = target.app-bar-2-0.args.VERSION }
}
"#;
    let all = resolve(hcl, &["app", "one"]).expect("it resolves");
    let names: Vec<_> = all.targets.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["app-bar-1-0", "app-bar-2-0", "app-foo-1-0", "app-foo-2-0", "one-x", "one-y"]
    );
    assert_eq!(all.targets["app-bar-2-0"].target.as_deref(), Some("bar"));
    assert_eq!(all.targets["one-x"].args["OTHER"], "2.0");
    assert_eq!(all.groups["one"].targets, ["one-x", "one-y"]);
    assert_eq!(all.groups["default"].targets, ["app", "one"]);

    for (hcl, want) in [
        ("target \"a\" { matrix = { x = [1, 2] } }", "gives the name `a` twice"),
        ("target \"a\" { name = \"b\" }", "`name` needs a `matrix`"),
        ("target \"a\" {\n name = \"a b\"\n matrix = { x = [1] }\n}", "`a b` is no name"),
        ("target \"a\" { matrix = { x = 1 } }", "expected a list"),
        ("group \"a\" { matrix = { x = [1] } }", "for targets, not for groups"),
    ] {
        let e = resolve(hcl, &["a"]).expect_err(hcl);
        assert!(e.contains(want), "{hcl}: {e}");
    }
}

#[test]
fn variables_come_from_outside() {
    let hcl = r#"
variable "S" { default = "d" }
variable "N" { default = 1 }
variable "B" { default = false }
variable "L" {
  type = list(string)
  default = ["latest"]
}
variable "M" { type = map(number) }
variable "O" {
  type = object({a = string, b = optional(number)})
  default = {a = "x"}
}
variable "E" {}
variable "T" {
  type = number
  default = null
  validation {
    condition = T == null || T > 2
    error_message = "T is too small"
  }
}
plain = "top-${S}"
target "t" {
  args = {
    s = S, n = N + 1, b = B ? "y" : "n", l = join("+", L), m = jsonencode(M), o = O.a, e = E, t = T, p = plain
  }
}
"#;
    let args = |env: &[(&str, &str)]| {
        let all = read(&[("docker-bake.hcl", hcl)], env)?;
        let t = all.resolve(&["t".to_owned()], &Overrides::default()).map_err(|d| d.message)?;
        let args: Vec<String> =
            t.targets["t"].args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        Ok::<_, String>(args.join(" "))
    };
    assert_eq!(args(&[]).expect("defaults"), "b=n e= l=latest m=null n=2 o=x p=top-d s=d");
    let env = [
        ("S", "x"),
        ("N", "41"),
        ("B", "1"),
        ("L", "a,\"b,c\""),
        ("M", "k:1,l:2"),
        ("E", "e"),
        ("T", "3"),
        ("O_JSON", "{\"a\": \"j\"}"),
    ];
    let want = "b=y e=e l=a+b,c m={\"k\":1,\"l\":2} n=42 o=j p=top-x s=x t=3";
    assert_eq!(args(&env).expect("all set"), want);
    for (name, value, want) in [
        ("N", "x", "variable `N` from outside: `x` is no number"),
        ("B", "maybe", "`maybe` is no bool"),
        ("M", "k", "`k` is no key:value"),
        ("O", "a", "cannot be given as text"),
        ("L_JSON", "{", "it is no JSON"),
        ("T", "2", "variable `T`: T is too small"),
    ] {
        let e = args(&[(name, value)]).expect_err(name);
        assert!(e.contains(want), "{name}={value}: {e}");
    }
    let untyped = "variable \"L\" { default = [1] }";
    let e = read(&[("a.hcl", untyped)], &[("L", "2")]).expect_err("no type");
    assert!(e.contains("only with a type"), "{e}");
}

#[test]
fn functions_of_the_file() {
    let hcl = r#"
function "increment" {
  params = [number]
  result = number + 1
}
function "tags" {
  params = [repo]
  variadic_params = names
  result = [for n in names : "${repo}:${n}${suffix()}"]
}
function "suffix" {
  params = []
  result = SUFFIX
}
variable "SUFFIX" { default = "-x" }
target "t" {
  args = { n = increment(increment(1)) }
  tags = tags("r", "a", "b")
}
"#;
    let t = target(hcl, "t");
    assert_eq!(t.args["n"], "3");
    assert_eq!(t.tags, Some(vec!["r:a-x".to_owned(), "r:b-x".to_owned()]));
    let wrong = hcl.replace("increment(increment(1))", "increment()");
    assert!(resolve(&wrong, &["t"]).expect_err("too few").contains("takes 1 argument, not 0"));
}

#[test]
fn sets() {
    let hcl = r#"
target "app" {
  tags = ["a"]
  args = { X = "1" }
  output = ["type=image,name=n"]
  secret = ["id=s,src=f"]
}
target "app-two" { inherits = ["app"] }
"#;
    let both = |lines: &[&str]| {
        let all = set(hcl, &["app*"], lines).unwrap_or_else(|e| panic!("{lines:?}: {e}"));
        (all.targets["app"].clone(), all.targets["app-two"].clone())
    };
    let (one, two) = both(&[
        "app*.args.X=2",
        "app.tags+=b",
        "*.platform=linux/arm64",
        "*.platform=linux/amd64",
        "app-two.no-cache=true",
        "app.labels.com.example.a=v=1",
        "*.push=true",
        "app.secret.s=env=E",
        "app.resources.memory=1g",
        "app.network=host",
    ]);
    assert_eq!((&one.args["X"][..], &two.args["X"][..]), ("2", "2"));
    assert_eq!(one.tags, Some(vec!["a".to_owned(), "b".to_owned()]));
    // What is set for a parent is inherited.
    assert_eq!(two.tags, one.tags);
    assert_eq!(one.platforms, Some(vec!["linux/arm64".to_owned(), "linux/amd64".to_owned()]));
    assert_eq!((one.no_cache, two.no_cache), (None, Some(true)));
    assert_eq!(one.labels["com.example.a"], "v=1");
    assert_eq!(one.outputs.as_ref().expect("outputs")[0].line(), "type=image,name=n,push=true");
    assert_eq!(one.secrets.as_ref().expect("secrets")[0].line(), "id=s,env=E");
    assert_eq!(one.entitlements, Some(vec!["network.host".to_owned()]));
    for (line, want) in [
        ("app", "expected TARGET.KEY=VALUE"),
        ("app.tags", "expected TARGET.KEY=VALUE"),
        ("app.tag=x", "unknown key `tag`"),
        ("app.args=x", "needs a name"),
        ("app.context+=x", "is for lists"),
        ("nope.tags=x", "no target matches `nope`"),
        ("app.secret.t=env=E", "has no secret `t`"),
        ("app.no-cache=maybe", "`true` or `false`"),
    ] {
        let e = set(hcl, &["app"], &[line]).expect_err(line);
        assert!(e.contains(want), "{line}: {e}");
    }
    let env = Overrides::parse(&["app.args.HOME".to_owned()], &|n| Some(format!("/{n}")));
    let all = read(&[("a.hcl", hcl)], &[]).expect("it reads");
    let got = all.resolve(&["app".to_owned()], &env.expect("an override")).expect("it resolves");
    assert_eq!(got.targets["app"].args["HOME"], "/HOME");
}

#[test]
fn links_bring_targets() {
    let hcl = r#"
target "base" {
  dockerfile-inline = "FROM scratch"
  entitlements = ["security.insecure"]
}
target "mid" { contexts = { b = "target:base" } }
target "app" { contexts = { m = "target:mid", other = "./x" } }
"#;
    let all = resolve(hcl, &["app"]).expect("it resolves");
    let order: Vec<_> = all.in_order().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(order, ["base", "mid", "app"]);
    assert!(all.targets["base"].linked && !all.targets["app"].linked);
    assert_eq!(all.targets["base"].outputs.as_ref().expect("outputs")[0].line(), "type=cacheonly");
    assert_eq!(all.targets["app"].entitlements, Some(vec!["security.insecure".to_owned()]));
    assert_eq!(all.groups["default"].targets, ["app"]);
}

#[test]
fn circles_are_told() {
    for (hcl, want) in [
        ("variable \"a\" { default = b }\nvariable \"b\" { default = a }", "needs itself"),
        ("x = y\ny = x", "needs itself"),
        ("group \"t\" { targets = [\"u\"] }\ngroup \"u\" { targets = [\"t\"] }", "t -> u -> t"),
        ("target \"t\" { inherits = [\"t\"] }", "t -> t"),
        ("target \"t\" { inherits = [\"u\"] }\ntarget \"u\" { inherits = [\"t\"] }", "t -> u -> t"),
        (
            "target \"t\" { contexts = { u = \"target:u\" } }\ntarget \"u\" { contexts = { t = \"target:t\" } }",
            "t -> u -> t",
        ),
        (
            "target \"t\" { tags = target.u.tags }\ntarget \"u\" { tags = target.t.tags }",
            "needs itself",
        ),
        ("target \"t\" { inherits = [\"v\"] }", "no target `v`"),
        ("target \"t\" { contexts = { u = \"target:v\" } }", "no target `v`"),
        ("target \"tt\" {}", "no target `t`"),
    ] {
        let e = resolve(hcl, &["t"]).expect_err(hcl);
        assert!(e.contains(want), "{hcl}: {e}");
    }
}

#[test]
fn wrong_files() {
    for (name, text, want) in [
        ("a.hcl", "target \"a\" {", "a.hcl:1: this is no HCL"),
        ("a.hcl", "target \"a\" {}\ntarget {}", "a.hcl:2: a target has one name"),
        (
            "a.hcl",
            "variable \"a\" {\n tag = []\n}",
            "a.hcl:2: variable `a`: there is no attribute `tag`",
        ),
        ("a.hcl", "group \"a\" {\n matrix = {}\n}", "a.hcl:2: group `a`: `matrix` is for targets"),
        (
            "a.hcl",
            "target \"a\" {\n tags = \"x\"\n}",
            "a.hcl:2: tags: expected a list, found a string",
        ),
        (
            "a.hcl",
            "target \"a\" {\n args {\n }\n}",
            "a.hcl:2: target `a`: there is no block `args` in it",
        ),
        ("a.hcl", "target \"a.b\" {}", "a.hcl:1: `a.b` is no name"),
        ("a.hcl", "target \"a\" {\n policy = [{filename = \"x\"}]\n}", "not supported"),
        ("a.hcl", "variable \"a\" {\n type = \"string\"\n}", "a.hcl:2: a type is string"),
        ("a.json", "{", "a.json:1: this is no JSON"),
        ("a.json", "{\"target\": 1}", "a.json:1: `target` is no object"),
        ("a.yml", "a: [", "this is no YAML"),
        ("a.yml", "services:\n  a:\n    build:\n      nope: 1", "a.yml:4: `nope` is no key"),
        ("x", "}", "x:1: this is no HCL"),
    ] {
        let e = read(&[(name, text)], &[]).expect_err(text);
        assert!(e.contains(want), "{text}: {e}");
    }
}

/// buildx takes no notice of them; here they are told.
#[test]
fn what_is_not_known_is_told() {
    let text = "targt \"a\" {}\ntarget \"b\" {\n tag = []\n}\ngroup \"c\" { target = [] }\n";
    let all = read(&[("a.hcl", text)], &[]).expect("it reads");
    let told: Vec<_> = all
        .warnings
        .iter()
        .map(|d| (&d.message[..], d.help.as_deref().unwrap_or_default()))
        .collect();
    let want = [
        ("unknown block `targt`", "did you mean `target`?"),
        ("target `b`: there is no attribute `tag`", "did you mean `tags`?"),
        ("group `c`: there is no attribute `target`", "did you mean `targets`?"),
    ];
    assert_eq!(told, want);
    assert_eq!(all.targets.len(), 1);
}

#[test]
fn json_is_the_same() {
    let json = r#"{
      "variable": {"TAG": {"default": "latest"}, "N": {"type": "list(number)", "default": [1, 2]}},
      "function": {"inc": {"params": ["n"], "result": "${n + 1}"}},
      "group": {"default": {"targets": ["webapp"]}},
      "target": {
        "webapp": {
          "dockerfile": "Dockerfile",
          "tags": ["docker.io/username/webapp:${TAG}"],
          "args": {"n": "${inc(N[1])}", "plain": "$${x}", "k-${TAG}": true}
        }
      }
    }"#;
    for name in ["docker-bake.json", "-"] {
        let all = read(&[(name, json)], &[("TAG", "v1")]).expect("it reads");
        let all = all.resolve(&[], &Overrides::default()).expect("it resolves");
        let t = &all.targets["webapp"];
        assert_eq!(t.tags, Some(vec!["docker.io/username/webapp:v1".to_owned()]));
        let args: Vec<String> = t.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(args, ["k-v1=true", "n=3", "plain=${x}"]);
    }
}

#[test]
fn files_are_merged() {
    let base = "target \"a\" {\n tags = [\"one\"]\n labels = { x = \"1\", y = \"1\" }\n}\nvariable \"V\" { default = 1 }";
    let over = "target \"a\" {\n tags = [\"two\"]\n labels = { y = \"2\" }\n args = { v = V }\n}\nvariable \"V\" { default = 2 }";
    let all = read(&[("docker-bake.hcl", base), ("docker-bake.override.hcl", over)], &[]);
    let all = all.expect("they read").resolve(&["a".to_owned()], &Overrides::default());
    let t = all.expect("it resolves").targets["a"].clone();
    assert_eq!(t.tags, Some(vec!["two".to_owned()]));
    assert_eq!((&t.labels["x"][..], &t.labels["y"][..], &t.args["v"][..]), ("1", "2", "2"));
}

#[test]
fn compose_services_are_targets() {
    let compose = r#"
x-common: &common
  args: {A: "${A:-one}"}
  labels: ["l=1"]
secrets:
  token: {environment: TOKEN}
services:
  db: {image: postgres}
  web.app:
    image: "me/web:${TAG}"
    environment: {B: env}
    build:
      <<: *common
      context: ./web
      dockerfile: Web.Dockerfile
      additional_contexts: {base: "service:lib"}
      target: final
      secrets: [token]
      ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}
      extra_hosts: ["h:1.2.3.4"]
      cache_from: [me/web:cache]
      x-bake:
        platforms: linux/amd64 linux/arm64
        output: [type=oci]
  lib:
    build: ./lib
"#;
    let hcl = "target \"lib\" { tags = [\"lib:1\"] }";
    let all = read(&[("compose.yaml", compose), ("docker-bake.hcl", hcl)], &[("TAG", "7")]);
    let all = all.expect("they read").resolve(&[], &Overrides::default()).expect("it resolves");
    assert_eq!(all.groups["default"].targets, ["lib", "web_app"]);
    let web = &all.targets["web_app"];
    assert_eq!(web.context.as_deref(), Some("web"));
    assert_eq!(web.tags, Some(vec!["me/web:7".to_owned()]));
    assert_eq!((&web.args["A"][..], &web.labels["l"][..]), ("one", "1"));
    assert_eq!(web.contexts["base"], "target:lib");
    assert_eq!(web.secrets.as_ref().expect("secrets")[0].line(), "id=token,env=TOKEN");
    assert_eq!(web.ulimits, Some(vec!["nofile=1:2".to_owned(), "nproc=3:3".to_owned()]));
    assert_eq!(web.extra_hosts["h"], "1.2.3.4");
    assert_eq!(web.platforms.as_ref().map(Vec::len), Some(2));
    assert_eq!(all.targets["lib"].context.as_deref(), Some("lib"));
    assert_eq!(all.targets["lib"].tags, Some(vec!["lib:1".to_owned()]));
}

/// Compared with buildx at the commit that the documentation names: each value is what it printed.
#[test]
fn compose_files_are_merged_as_compose_does() {
    let base = "services:\n  a:\n    build:\n      context: .\n      args: [A=1, \"B=2\"]\n      tags: [one]\n      \
                platforms: [linux/amd64]\n      labels: [x=1]\n      cache_from: [r1]\n      ulimits: {nofile: 3}\n      \
                secrets: [s]\nsecrets: {s: {file: ./s.txt}}\n";
    let merged = |over: &str| {
        let all = read(&[("compose.yml", base), ("more.yml", over)], &[]).expect("they read");
        all.resolve(&[], &Overrides::default()).expect("it resolves").targets["a"].clone()
    };
    let texts = |l: &Option<Vec<String>>| l.clone().unwrap_or_default().join(" ");
    let t = merged(
        "services:\n  a:\n    build:\n      args: {B: 3}\n      tags: [one, two]\n      platforms: [linux/arm64]\n      \
         labels: [x=2]\n      cache_from: [r1, r2]\n      ulimits: {nofile: {soft: 1, hard: 5}}\n      \
         secrets: [{source: s, target: q}, s2]\n      extra_hosts: [\"a:1.1.1.1\"]\n      target: t\nsecrets: {s2: {environment: Q}}\n",
    );
    assert_eq!((&t.args["A"][..], &t.args["B"][..], &t.labels["x"][..]), ("1", "3", "2"));
    assert_eq!(
        (texts(&t.tags), texts(&t.platforms)),
        ("one two".into(), "linux/amd64 linux/arm64".into())
    );
    assert_eq!((texts(&t.ulimits), &t.extra_hosts["a"][..]), ("nofile=1:5".into(), "1.1.1.1"));
    let lines = |t: &Target| t.secrets.iter().flatten().map(|s| s.line()).collect::<Vec<_>>();
    assert_eq!(lines(&t), ["id=s,src=s.txt", "id=s2,env=Q"]);
    assert_eq!((t.cache_from.map(|c| c.len()), t.target.as_deref()), (Some(2), Some("t")));
    let t =
        merged("services:\n  a:\n    build:\n      tags: !override [zz]\n      args: !reset {}\n");
    assert_eq!(
        (texts(&t.tags), t.args.len(), texts(&t.platforms)),
        ("zz".into(), 0, "linux/amd64".into())
    );
    let t = merged("services: {a: {build: foo}}\n");
    assert_eq!((t.context.as_deref(), &t.args["A"][..]), (Some("foo"), "1"));
    let over = "services:\n  a:\n    build: !reset null\n    image: foo\n";
    let all = read(&[("compose.yml", base), ("more.yml", over)], &[]).expect("they read");
    assert!(all.targets.is_empty(), "{:?}", all.targets);
    // Names, and variables that are none.
    let text = "services:\n  a:\n    build:\n      context: ./x/../y\n      args: [\"P=${COMPOSE_PROJECT_NAME}\", \"Q=$(date) $1\"]\n      \
                additional_contexts: [\"u=https://x/y.git\", \"w=./z\", \"i=docker-image://alpine\"]\n";
    let t = read(&[("compose.yml", text)], &[]).expect("it reads").targets[0].clone();
    assert_eq!((&t.args["P"][..], &t.args["Q"][..]), ("bake", "$(date) $1"));
    assert_eq!((t.context.as_deref(), &t.contexts["w"][..]), (Some("y"), "z"));
    assert_eq!(
        (&t.contexts["u"][..], &t.contexts["i"][..]),
        ("https://x/y.git", "docker-image://alpine")
    );
}

/// Attributes of other targets, as buildx gives them.
#[test]
fn attributes_are_typed() {
    let hcl = "target \"app\" {\n cache-from = [\"type=local,src=p\", \"user/app\"]\n output = [\"type=oci,dest=o.tar\"]\n \
               secret = [\"id=s,src=f\"]\n ssh = [\"k=a,b\"]\n}\n\
               target \"t\" {\n args = {\n  a = target.app.cache-from[0].src\n  b = target.app.cache-from[1].ref\n  \
               c = target.app.output[0].dest\n  d = target.app.secret[0].src\n  e = target.app.ssh[0].paths[1]\n  f = target.app.name\n }\n \
               cache-to = [target.app.cache-from[0]]\n}";
    let t = target(hcl, "t");
    let args: Vec<String> = t.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(args, ["a=p", "b=user/app", "c=o.tar", "d=f", "e=b", "f=app"]);
    assert_eq!(t.cache_to.expect("it")[0].line(), "type=local,src=p");
    let json = r#"{"target": [{"a": [{"tags": ["x"]}]}, {"b": {"args": {"v": "1"}}}]}"#;
    assert_eq!(read(&[("a.json", json)], &[]).expect("it reads").targets.len(), 2);
}

#[test]
fn lists() {
    let hcl = "target \"b\" { description = \"does b\" }\ntarget \"_hidden\" {}\ngroup \"g\" { targets = [\"b\"] }\n\
               variable \"V\" {\n type = list(string)\n default = [\"x\"]\n description = \"a v\"\n}\nvariable \"W\" { default = null }";
    let all = read(&[("a.hcl", hcl)], &[]).expect("it reads");
    let rows = |l: Listing| match l {
        Listing::Rows { rows, .. } => rows.iter().map(|r| r.join("|")).collect::<Vec<_>>(),
        Listing::Text(t) => vec![t],
    };
    assert_eq!(rows(rgraph_bake::print_targets(&all, false)), ["b|does b", "g|b"]);
    assert_eq!(
        rows(rgraph_bake::print_variables(&all, false)),
        ["V|list of string|[\"x\"]|a v", "W||<null>|"]
    );
    let json = rows(rgraph_bake::print_targets(&all, true)).join("");
    let want = "[\n  {\n    \"name\": \"b\",\n    \"description\": \"does b\"\n  },\n  {\n    \"name\": \"g\",\n    \
                \"description\": \"b\",\n    \"group\": true\n  }\n]\n";
    assert_eq!(json, want);
}

/// Files together, as buildx at commit 461836b takes them: the group of all services is the default where no
/// file names one, whatever the order.
#[test]
fn services_are_the_default_where_no_file_names_one() {
    let compose = ("compose.yaml", "services:\n  w: {build: .}\n");
    let none = ("c.yaml", "services:\n  w: {image: x}\n");
    let named = ("a.hcl", "group \"default\" { targets = [\"a\"] }\ntarget \"a\" {}\n");
    let plain = ("b.hcl", "target \"a\" {}\n");
    for (all, want) in [
        (vec![compose, named], vec!["a"]),
        (vec![named, compose], vec!["a"]),
        (vec![none, named], vec!["a"]),
        (vec![compose, plain], vec!["w"]),
        (vec![none, plain], vec![]),
    ] {
        let definition = read(&all, &[]).expect("it reads");
        let resolved = definition.resolve(&[], &Overrides::default()).expect("it resolves");
        assert_eq!(resolved.groups["default"].targets, want, "{all:?}");
        let names: Vec<_> = resolved.targets.into_keys().collect();
        assert_eq!(names, want, "{all:?}");
    }
}

/// Lists whose last bracket stands where their key does: wrong by YAML 1.2, and everywhere.
#[test]
fn brackets_below_their_key() {
    let service = |args: &str| {
        format!("services:\n  w:\n    image: x\n    build:\n      args: {args}\n      target: t\n")
    };
    let good = service("[\n        \"A=1\",\n        \"B=[2]\"\n      ]");
    let t = read(&[("compose.yaml", &good)], &[])
        .expect("it reads")
        .resolve(&[], &Overrides::default());
    let t = t.expect("it resolves").targets["w"].clone();
    assert_eq!((t.args["A"].as_str(), t.args["B"].as_str()), ("1", "[2]"));
    assert_eq!(t.target.as_deref(), Some("t"));
    let deep = service("{\n        A: [\n      ],\n        B: x\n      }");
    assert!(read(&[("compose.yaml", &deep)], &[]).is_err());
    // What follows is told at its own place.
    let bad = good.replace("target: t", "target: [t");
    let e = read(&[("compose.yaml", &bad)], &[]).expect_err("it is not closed");
    assert!(e.starts_with("compose.yaml:1"), "{e}");
}
