//! The tries to get out, from inside the steps of builds and from containers: as root, and as an unprivileged user with
//! many ids and with one. What a user's step may not do is what root's may not do.

use rgraph_tests::escape::{self, By};
use rgraph_tests::{Case, Ids, need, shout};

const WHO: [Option<Ids>; 3] = [None, Some(Ids::Range), Some(Ids::One)];

fn case(ids: Option<Ids>) -> Case {
    let case = Case::new();
    let case = match ids {
        Some(ids) => case.of_user(ids),
        None => case,
    };
    case.import_base(rgraph_tests::BASE);
    case
}

#[test]
fn every_try_is_refused_in_everybodys_steps() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("cc"), Tool("pasta"));
    let _listener = escape::listen();
    let program = Case::new();
    let tries = program.out("tries");
    if let Err(why) = escape::compile(&tries) {
        return shout(&why);
    }
    let tries = std::fs::read(tries).expect("just compiled");
    let mut wrong = Vec::new();
    for ids in WHO {
        let case = case(ids);
        let root = if ids.is_none() { By::Root } else { By::MappedRoot };
        let connected = ids.is_none() || case.open_tun();
        case.file("tries", &tries).mode("tries", 0o755).dockerfile(
            "FROM BASE AS tried
COPY tries /tries
RUN --network=none mkdir -m 777 /said && /tries > /said/root
USER 1000:1000
RUN --network=none /tries > /said/user
USER root
RUN /tries > /said/connected
FROM scratch
COPY --from=tried /said /
",
        );
        let out = case.out("said");
        let run = case.build(&["-o", &format!("type=local,dest={}", out.display())]).ok();
        for (name, by) in [("root", root), ("user", By::User), ("connected", root)] {
            if name == "connected" && run.stderr.contains("the host's network") {
                assert!(!connected || ids.is_none(), "{}", run.stderr);
                shout("escapes from a private network: there is none");
                continue;
            }
            let printed = std::fs::read_to_string(out.join(name)).expect("it was said");
            wrong
                .extend(escape::wrong(&printed, by).iter().map(|w| format!("{ids:?} {name}: {w}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where the tries are not process 1: process 2 are they themselves, and process 1 may be one of ours, which
/// is closed to them.
const NOT_FIRST: [&str; 4] =
    ["root_of_parent: ok", "rewrite_exe: EACCES", "setns_mnt: EACCES", "setns_net: EACCES"];

#[test]
fn every_try_is_refused_in_everybodys_containers() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("cc"), Tool("pasta"));
    let _listener = escape::listen();
    let program = Case::new();
    let tries = program.out("tries");
    if let Err(why) = escape::compile(&tries) {
        return shout(&why);
    }
    let tries = std::fs::read(tries).expect("just compiled");
    let mut wrong = Vec::new();
    for ids in WHO {
        let case = case(ids);
        let root = if ids.is_none() { By::Root } else { By::MappedRoot };
        case.open_tun();
        case.file("tries", &tries)
            .mode("tries", 0o755)
            .dockerfile("FROM BASE\nCOPY tries /tries\n");
        case.build(&["-t", "tries:1"]).ok();
        let none = "--network=none";
        case.rgraph(&["run", "-d", "--name", "joined", none, "tries:1", "sleep", "1000"]).ok();
        for (args, by) in [
            (&["run", "--rm", none, "tries:1", "/tries"][..], root),
            (&["run", "--rm", none, "--init", "tries:1", "/tries"], root),
            (&["run", "--rm", none, "-u", "1000:1000", "tries:1", "/tries"], By::User),
            (&["run", "--rm", "-p", "127.0.0.1::80", "tries:1", "/tries"], root),
            (&["exec", "joined", "/tries"], root),
            (&["exec", "-u", "1000:1000", "joined", "/tries"], By::User),
        ] {
            let run = case.rgraph(args);
            if run.stderr.contains("ports are not published") {
                shout("escapes from a private network: there is none");
                continue;
            }
            let mut all = escape::wrong(run.text(), by);
            if args.contains(&"--init") || args[0] == "exec" {
                all.retain(|w| !NOT_FIRST.iter().any(|known| w.starts_with(known)));
            }
            wrong.extend(all.iter().map(|w| format!("{ids:?} {}: {w}", args.join(" "))));
        }
        case.rgraph(&["rm", "-f", "joined"]).ok();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
