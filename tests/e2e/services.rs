//! Containers beside steps (`build --service`): reached by name, waited for, gone afterwards.

use std::time::Duration;

use rgraph_tests::{
    BASE, Background, Case, Ids, Net, has_process, mounts_below, need, shout, wait_until,
};
use rustix::process::Signal;

/// Who runs builds, with a network for steps that does not touch the machine's.
enum Who {
    Root(Net),
    User,
}

impl Who {
    /// Root, and a user where a user has networks.
    fn all() -> Vec<(Self, Case)> {
        let mut all = vec![(Self::Root(Net::new()), Case::with_base())];
        let user = Case::new().of_user(Ids::Range);
        if user.open_tun() {
            user.import_base(BASE);
            all.push((Self::User, user));
        } else {
            shout("/dev/net/tun cannot be opened");
        }
        all
    }

    fn start(&self, case: &Case, args: &[&str]) -> Background {
        match self {
            Self::Root(net) => net.build(case, args),
            Self::User => case.start(&case.build_args(args)),
        }
    }
}

/// Makes the image of a service. Each prints its own words before it listens, and takes its time.
fn image(case: &Case, tag: &str, rest: &str) {
    case.dockerfile(&format!("FROM BASE\n{rest}\n"));
    case.build(&["--network=none", "-t", tag]).ok();
}

const WEB: &str = "RUN mkdir /www && echo page one > /www/index.html\n\
    ENV WORD=unset\n\
    EXPOSE 8080\n\
    CMD echo \"web says $WORD\"; sleep 0.3; exec httpd -f -p 8080 -h /www";

macro_rules! need_networks {
    () => {
        need!(Root, Tool("ip"), Tool("nsenter"), Tool("newuidmap"), Tool("setpriv"), Tool("pasta"));
    };
}

#[test]
fn steps_reach_services_by_name_and_cached_ones_start_none() {
    need_networks!();
    for (who, case) in Who::all() {
        image(&case, "web:1", WEB);
        // It reaches those that stand before it.
        image(
            &case,
            "front:1",
            "RUN printf 'interface eth0\\nstart 10.0.0.1\\nend 10.0.0.9\\n' > /dhcp && touch /leases\n\
             EXPOSE 8080/tcp 67/udp\n\
             CMD wget -qO /index.html http://web:8080/ && echo front has $(cat /index.html) && \
             { udhcpd -f -S /dhcp & exec httpd -f -p 8080 -h /; }",
        );
        case.dockerfile(
            "FROM BASE AS base\n\
             RUN echo a step of the base\n\
             FROM base AS test\n\
             RUN wget -qO- http://web:8080/ && wget -qO- http://front:8080/index.html\n\
             RUN --network=none ! grep web /etc/hosts\n\
             RUN hostname; ip -4 -o addr show | wc -l; wget -qO- http://front:8080/index.html\n",
        );
        let args =
            ["--service=web=web:1,env=WORD=hello,stage=test", "--service=front=front:1,stage=TEST"];
        let run = who.start(&case, &args).finish().ok();
        assert_eq!(run.stderr.matches("web says hello").count(), 1, "{}", run.stderr);
        assert_eq!(run.stderr.matches("front has page one").count(), 1, "{}", run.stderr);
        assert!(run.stderr.contains("[service web] running"), "{}", run.stderr);
        // Each step has its own network: loopback, the way out, and one link for each service.
        assert!(run.stderr.contains(" 4\n"), "{}", run.stderr);

        let run = who.start(&case, &args).finish().ok();
        run.all_cached();
        assert!(!run.stderr.contains(" says "), "{}", run.stderr);
        // Only steps that see it are other steps without it.
        let run = who.start(&case, &args[..1]).finish();
        assert_eq!(run.code, 1, "{}", run.stderr);
        assert_eq!(run.step("] RUN echo a step"), "CACHED");
        assert!(run.stderr.contains("service front is gone"), "{}", run.stderr);
        let run = who.start(&case, &[]).finish();
        assert_eq!(run.step("] RUN echo a step"), "CACHED");
        assert_eq!(run.code, 1);
        assert_eq!(mounts_below(&case.root()), Vec::<String>::new());
    }
}

#[test]
fn a_service_that_moved_is_why_a_step_runs() {
    need!(Root, Tool("ip"), Tool("nsenter"));
    let (net, case) = (Net::new(), Case::with_base());
    // A file of its own: images of services are built in between.
    case.file("main", format!("FROM {BASE}\nRUN wget -qO- http://web:8080/\n"));
    let file = case.context().join("main").display().to_string();
    let build = |args: &[&str]| net.build(&case, &[args, &["-f", &file]].concat()).finish().ok();
    image(&case, "web:1", WEB);
    build(&["--service=web=web:1"]);
    let run = build(&["--service=web=web:1,env=WORD=x"]);
    assert!(run.stderr.contains("service web environment: "), "{}", run.stderr);
    // When it counts as ready changes nothing.
    build(&["--service=web=web:1,env=WORD=x,wait=9s,port=8080"]).all_cached();
    // Other settings of the same files.
    image(&case, "web:1", &format!("{WEB} -u 0"));
    let run = build(&["--service=web=web:1,env=WORD=x"]);
    let line = run.stderr.lines().find_map(|l| l.split_once("service web moved "));
    let (old, new) = line.expect(&run.stderr).1.split_once(" to ").expect("two digests");
    assert!(old.len() == 12 && new.trim().len() == 12 && old != new, "{old} {new}");
    let run = build(&["--service=web=web:1,env=WORD=x", "--service=other=web:1"]);
    assert!(run.stderr.contains("service other is new"), "{}", run.stderr);
    let graph = case.rgraph(&[
        "graph",
        "--format=json",
        "--service=web=web:1",
        "-f",
        &file,
        &case.context().display().to_string(),
    ]);
    assert!(graph.ok().text().contains("\"role\":\"service\""), "no service in the graph");
}

/// Steps of two stages have their ports to themselves although they see one service.
#[test]
fn steps_that_share_a_service_do_not_share_a_network() {
    need!(Root, Tool("ip"), Tool("nsenter"));
    let (net, case) = (Net::new(), Case::with_base());
    image(&case, "web:1", WEB);
    let step = |own: &str, other: &str| {
        format!(
            "FROM BASE AS {own}\n\
             RUN --mount=type=cache,target=/c nc -ll -p 7777 -e true & touch /c/{own}; \\\n\
              while [ ! -e /c/{other} ]; do sleep 0.1; done; netstat -ltn | grep -q :7777; \\\n\
              echo \"{own} sees $(wget -qO- http://web:8080/) $?\"\n"
        )
    };
    let (a, b) = (step("a", "b"), step("b", "a"));
    case.dockerfile(&format!(
        "{a}{b}FROM BASE\n\
         RUN --mount=from=a,target=/a --mount=from=b,target=/b true\n"
    ));
    let run = net.build(&case, &["--service=web=web:1", "--jobs=4"]).finish().ok();
    for own in ["a", "b"] {
        assert!(run.stderr.contains(&format!("{own} sees page one 0")), "{}", run.stderr);
    }
    assert_eq!(run.stderr.matches("web says").count(), 1, "{}", run.stderr);
    assert!(wait_until(Duration::from_secs(20), || net.links().is_empty()), "{:?}", net.links());
}

#[test]
fn services_that_are_not_ready_are_told() {
    need!(Root, Tool("ip"), Tool("nsenter"));
    let (net, case) = (Net::new(), Case::with_base());
    for (tag, rest) in [
        ("dies:1", "EXPOSE 80\nCMD echo first; echo no disk >&2; exit 3"),
        ("local:1", "EXPOSE 80\nCMD echo here; exec httpd -f -p 127.0.0.1:80"),
        ("idle:1", "CMD echo idle; exec sleep 100"),
        ("broken:1", "EXPOSE 80\nCMD [\"/none\"]"),
        ("later:1", "EXPOSE 80\nCMD (sleep 0.5; kill 1) & exec nc -l -p 80"),
    ] {
        image(&case, tag, rest);
    }
    case.dockerfile("FROM BASE AS test\nRUN nc -w 5 s 80 < /dev/null; echo done\nRUN echo two\n");
    for (service, code, texts) in [
        (
            "s=dies:1",
            1,
            &[
                "service `s` ended with exit code 3 before it listened on 80/tcp; it said:",
                "no disk",
            ][..],
        ),
        (
            "s=local:1,wait=1s",
            1,
            &["does not listen on 80/tcp after 1 s, only for itself (on loopback)", "here"],
        ),
        ("s=idle:1,port=81/udp,wait=1s", 1, &["does not listen on 81/udp after 1 s;"]),
        ("s=broken:1", 1, &["service `s` cannot be started: cannot run `/none`"]),
        // It was ready, and ends while a step runs or before the next.
        ("s=later:1", 1, &["service `s` "]),
        ("s=idle:1", 0, &["done"]),
        ("s=idle:1,port=81,wait=no", 0, &["CACHED"]),
        ("s=no-such-image:1", 1, &["service s: docker.io/library/no-such-image:1: "]),
        (
            "s=idle:1,stage=tset",
            1,
            &["--service: no stage is called `tset`", "did you mean `test`"],
        ),
    ] {
        let run = net.build(&case, &["--offline", "--service", service]).finish();
        run.fails(code, texts);
        assert!(!has_process("httpd\0-f\0-p\x00127.0.0.1:80"), "{service}");
    }
    let run = net.build(&case, &["--service=s=idle:1", "--network=host"]).finish().ok();
    assert!(!run.stderr.contains("[service s]"), "{}", run.stderr);
    let context = case.context().display().to_string();
    case.rgraph(&["build", "--service=s", &context]).fails(2, &["the image is missing"]);
    case.rgraph(&["graph", "--format=llb", "--offline", "--service=s=idle:1", &context])
        .fails(2, &["LLB knows no services"]);
}

#[test]
fn without_networks_of_their_own_steps_have_no_services() {
    need!(Root, Tool("ip"), Tool("nsenter"), Tool("setpriv"));
    let (net, case) = (Net::new(), Case::with_base());
    image(&case, "web:1", WEB);
    case.dockerfile("FROM BASE\nRUN true\n");
    let args = case.build_args(&["--service=web=web:1"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = net.start(&case, "", &["setpriv", "--bounding-set=-net_admin"], &args).finish();
    run.fails(1, &["service `web` needs a network that steps have to themselves"]);
}

#[test]
fn however_a_build_ends_its_services_are_gone() {
    need_networks!();
    for (at, (who, case)) in Who::all().into_iter().enumerate() {
        let marker = format!("5{}{at}", std::process::id());
        image(
            &case,
            "web:1",
            &format!("EXPOSE 80\nCMD trap '' TERM; sleep {marker} & exec httpd -f -p 80"),
        );
        let running = || has_process(&format!("sleep\0{marker}"));
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::KILL, 137)] {
            case.dockerfile("FROM BASE\nRUN echo be\"gun\"; sleep 100\n");
            let mut run = who.start(&case, &["--service=web=web:1"]);
            run.wait_for(" begun");
            assert!(running());
            match signal {
                // Not `nsenter`, which waits for it.
                Signal::KILL => run.signal(Signal::KILL),
                signal => run.signal(signal),
            }
            assert_eq!(run.finish().code, code);
            assert!(wait_until(Duration::from_secs(20), || !running()), "{signal:?}");
        }
        case.dockerfile("FROM BASE\nRUN exit 3\n");
        who.start(&case, &["--service=web=web:1"]).finish().fails(1, &["exit code: 3"]);
        assert!(!running());
        assert_eq!(mounts_below(&case.root()), Vec::<String>::new());
        if let Who::Root(net) = &who {
            let none = || net.links().is_empty();
            assert!(wait_until(Duration::from_secs(20), none), "{:?}", net.links());
        }
        // Nothing of its root is kept.
        case.rgraph(&["prune", "-f"]).ok();
        case.rgraph(&["store", "check"]).ok();
    }
}
