//! `--service NAME=IMAGE[,...]`: containers beside steps.

use std::time::Duration;

use rgraph_frontend::ServiceOption;
use rgraph_ir::op::Port;
use rgraph_ir::{Reference, Ttl};

use super::csv;
use super::error::{OptionsError, did_you_mean};
use crate::args::Environment;

const FLAG: &str = "--service";
/// How long a service may take until it listens, unless the caller says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
const FORM: &str = "`--service NAME=IMAGE[,env=KEY=VALUE][,stage=NAME][,port=N][,wait=TIME]`";

/// Reads every `--service`.
///
/// # Errors
/// What is wrong with one, or that two have one name.
pub fn services(lines: &[String], env: &Environment) -> Result<Vec<ServiceOption>, OptionsError> {
    let mut out: Vec<ServiceOption> = Vec::new();
    for line in lines {
        let service = service(line, env)?;
        if out.iter().any(|s| s.name.eq_ignore_ascii_case(&service.name)) {
            let why = format!("there is a service `{}` already", service.name);
            return Err(OptionsError::value(FLAG, line, why));
        }
        out.push(service);
    }
    Ok(out)
}

fn service(line: &str, env: &Environment) -> Result<ServiceOption, OptionsError> {
    let bad = |why: String| OptionsError::value(FLAG, line, why).with_help(FORM);
    let fields = csv::fields(line).map_err(bad)?;
    let mut fields = fields.iter().map(|f| f.split_once('=').unwrap_or((f, "")));
    let (name, image) = fields.next().unwrap_or_default();
    if image.is_empty() {
        return Err(bad("the image is missing".to_owned()));
    }
    if !is_host(name) {
        return Err(bad(format!("`{name}` is no host name")));
    }
    let image: Reference = image.parse().map_err(|e| bad(format!("{e}")))?;
    let mut out = ServiceOption {
        name: name.to_owned(),
        image,
        env: Vec::new(),
        ports: None,
        patience: PATIENCE,
        stages: Vec::new(),
    };
    for (key, value) in fields {
        if value.is_empty() {
            return Err(bad(format!("`{key}` has no value")));
        }
        match key {
            "env" => {
                if let Some((key, value)) = variable(value, env).map_err(bad)? {
                    out.env.retain(|(k, _)| *k != key);
                    out.env.push((key, value));
                }
            }
            "stage" => out.stages.push(value.to_owned()),
            "port" => {
                let port = Port::parse(value).ok_or_else(|| {
                    bad(format!("`{value}` is no port such as `5432` or `53/udp`"))
                })?;
                out.ports.get_or_insert_default().push(port);
            }
            "wait" if value == "no" => out.ports = Some(Vec::new()),
            "wait" => {
                let time: Option<Ttl> = value.parse().ok().filter(|t| *t > Ttl::seconds(0));
                let time = time.ok_or_else(|| {
                    bad(format!("`{value}` is no time such as `90s`, and not `no`"))
                })?;
                out.patience = time.duration();
            }
            key => {
                let known = ["env", "stage", "port", "wait"];
                let why = format!("unknown key `{key}`");
                return Err(
                    OptionsError::value(FLAG, line, why).with_help(did_you_mean(key, &known))
                );
            }
        }
    }
    Ok(out)
}

/// `KEY=VALUE`, or `KEY` with the value that the caller has; `None`: it has none.
fn variable(text: &str, env: &Environment) -> Result<Option<(String, String)>, String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => match env.var(text) {
            None => (text, None),
            Some(v) => {
                let value = v.to_str().ok_or_else(|| format!("`{text}` is not UTF-8"))?;
                (text, Some(value.to_owned()))
            }
        },
    };
    if key.is_empty() || text.contains('\0') {
        return Err(format!("`{text}` is no variable"));
    }
    Ok(value.map(|v| (key.to_owned(), v)))
}

/// Longest name of a host that the kernel takes, bytes (uts_namespaces(7)).
const MAX_HOST: usize = 64;

/// Labels of letters, digits, `-` and `_`, joined by dots (RFC 1123, and what Docker takes), which
/// mean this machine to nobody.
fn is_host(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.chars().all(fine)
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // A name that ends in a number is an address to many programs, be it `0x7f.1`.
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.strip_prefix("0x").or(last.strip_prefix("0X")).map_or_else(
        || last.chars().all(|c| c.is_ascii_digit()),
        |hex| hex.chars().all(|c| c.is_ascii_hexdigit()),
    );
    let this = name.eq_ignore_ascii_case("localhost");
    name.len() <= MAX_HOST && !number && !this && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<ServiceOption, OptionsError> {
        let env = Environment::from_vars([("HERE".into(), "yes".into())]);
        service(line, &env)
    }

    #[test]
    fn parts() {
        let s =
            read("db=postgres:16,env=A=1=2,env=HERE,env=GONE,env=A=3,stage=test,stage=2").unwrap();
        assert_eq!((&*s.name, s.image.to_string()), ("db", "docker.io/library/postgres:16".into()));
        let pairs: Vec<_> = s.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(pairs, ["HERE=yes", "A=3"]);
        assert_eq!(
            (s.stages, s.ports, s.patience),
            (vec!["test".into(), "2".into()], None, PATIENCE)
        );
        let s = read("a.b_c-d=localhost:5000/x@sha256:0123456789012345678901234567890123456789012345678901234567890123,port=80,port=53/udp,wait=90s,\"env=L=a,b\"").unwrap();
        let ports: Vec<_> = s.ports.iter().flatten().map(Port::to_string).collect();
        assert_eq!(ports, ["80/tcp", "53/udp"]);
        assert_eq!((s.patience.as_secs(), &*s.env[0].1), (90, "a,b"));
        assert_eq!(read("x=y,wait=no").unwrap().ports, Some(vec![]));
        for bad in [
            "",
            "db",
            "db=",
            "=x",
            "d b=x",
            "localhost=x",
            "LocalHost=x",
            "0x7f.0x1=x",
            "a.1=x",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=x",
            "127.0.0.1=x",
            "-a=x",
            "a..b=x",
            "db=X Y",
            "db=x,evn=A=1",
            "db=x,port=0",
            "db=x,port=1/sctp",
            "db=x,wait=0s",
            "db=x,env==1",
            "db=x,env=",
            "db=x,stage",
            "a\nb=x",
        ] {
            let e = read(bad).expect_err(bad);
            assert!(e.is_usage() && e.help().is_some(), "{bad}: {e}");
        }
    }

    #[test]
    fn names_are_given_once() {
        let lines = ["a=x".to_owned(), "b=x".to_owned(), "A=y".to_owned()];
        let env = Environment::from_vars([]);
        assert_eq!(services(&lines[..2], &env).unwrap().len(), 2);
        assert!(services(&lines, &env).unwrap_err().to_string().contains("already"));
    }
}
