//! Steps in real sandboxes, with busybox as the whole image.
//!
//! Its own `main`: the sandbox starts this very program again as its runner, which must happen
//! before there is a second thread. `cargo test -p rgraph-runtime --test sandbox [FILTER]`;
//! `-- measure` prints what a step costs instead.

#![allow(missing_docs)]

mod escape;
mod image;
mod isolation;
mod lifecycle;
mod machines;
mod mounts;
mod pasta;
mod process;
mod soak;
mod userns;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use rgraph_runtime::sandbox::*;
use rgraph_tests::programs::chosen;

use image::{Image, run};

type Test = (&'static str, fn(&Runner));

/// Names the test after its function.
macro_rules! tests {
    ($($module:ident::$name:ident,)*) => { &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name)),*] };
}

const TESTS: &[Test] = tests![
    process::exit_codes,
    process::streams_are_apart_and_complete,
    process::programs_that_cannot_run,
    process::names,
    process::users,
    process::hostile_passwd,
    process::setuid_programs_work,
    process::environment_is_exactly_what_was_given,
    process::working_directory,
    process::limits,
    process::processes_are_counted,
    process::large_environment,
    isolation::only_standard_streams_are_open,
    isolation::capabilities_and_filter,
    isolation::forbidden_calls,
    isolation::device_nodes_cannot_be_opened,
    isolation::proc_and_sys_are_covered,
    isolation::host_mounts_are_hidden,
    isolation::network_none_has_only_loopback,
    isolation::own_binary_is_read_only,
    mounts::mounts,
    mounts::reserved_targets,
    mounts::hostile_mount_points,
    mounts::upper_holds_only_what_the_step_did,
    mounts::mount_points_leave_no_trace,
    mounts::mount_points_below_the_layers_leave_the_upper_alone,
    lifecycle::cancel_kills_at_once_without_handler,
    lifecycle::cancel_lets_a_handler_finish,
    lifecycle::cancel_kills_after_the_grace_period,
    lifecycle::dropping_kills,
    lifecycle::steps_run_at_once,
    lifecycle::nothing_outlives_a_killed_build,
    escape::every_try_is_refused,
    escape::tries_are_true,
    escape::nothing_outlives_a_step,
    escape::swapped_parents_of_mount_points,
    soak::many_steps_leave_nothing,
    soak::a_large_caller_costs_nothing,
    machines::an_emulator_that_is_missing_is_named,
    machines::registered_emulators_are_used,
    pasta::connects_steps_without_rights,
    userns::what_holds_for_root_holds_for_a_user,
];

fn main() -> ExitCode {
    runner_main_if_asked();
    let mut words = std::env::args().skip_while(|a| a != userns::FLAG).skip(1);
    match words.next().as_deref() {
        Some("pasta") => return pasta::build(),
        Some("machines") => return machines::build(),
        Some("all") => return userns::all(),
        _ => {}
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("hold") => return lifecycle::hold(Path::new(&args[1])),
        Some("measure") => return measure(),
        _ => {}
    }
    let names: Vec<&str> = TESTS.iter().map(|(name, _)| *name).collect();
    let Some(chosen) = chosen(&names, &args) else { return ExitCode::SUCCESS };
    if !is_root() {
        println!("\n*** SKIPPED, NOT TESTED: {} sandbox tests need root ***\n", chosen.len());
        return ExitCode::SUCCESS;
    }
    run_tests(TESTS.iter().filter(|(name, _)| chosen.contains(name)))
}

fn run_tests<'a>(chosen: impl Iterator<Item = &'a Test>) -> ExitCode {
    let runner = Runner::start().expect("the runner starts");
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&runner)));
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_err() {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nfailed: {}", failed.join(", "));
    ExitCode::FAILURE
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// What a step costs: overlay, namespaces, `true`, cleaning up.
fn measure() -> ExitCode {
    let start = Instant::now();
    let runner = Runner::start().unwrap();
    println!("runner started in {:?}", start.elapsed());
    let start = Instant::now();
    println!("private networks: {:?} in {:?}", runner.connect().unwrap(), start.elapsed());
    for (what, network, stubs) in [
        ("host network", Network::Host, false),
        ("host network, image without /etc/hosts", Network::Host, true),
        ("network none", Network::None, false),
        ("private network", Network::Private, false),
    ] {
        let mut times = Vec::new();
        for _ in 0..50 {
            let image = Image::new();
            if !stubs {
                for d in ["proc", "sys", "dev"] {
                    fs::create_dir(image.at("l").join(d)).unwrap();
                }
                image.file("etc/hosts", "");
                image.file("etc/resolv.conf", "");
            }
            let mut spec = image.spec(&["/bin/true"]);
            spec.network = network;
            let start = Instant::now();
            assert_eq!(run(&runner, &spec).outcome, Outcome::Exited(0));
            times.push(start.elapsed());
        }
        times.sort();
        println!("{what}: median {:?}, least {:?}, most {:?}", times[25], times[0], times[49]);
    }
    ExitCode::SUCCESS
}
