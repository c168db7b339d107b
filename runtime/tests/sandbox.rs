use rgraph_runtime::sandbox::*;
use rgraph_solver::cancel::CancelToken;
fn main() {
    runner_main_if_asked();
    let dir = tempfile::tempdir().unwrap();
    let at = |n: &str| dir.path().join(n);
    for d in ["l/bin", "u", "w"] {
        std::fs::create_dir_all(at(d)).unwrap();
    }
    std::fs::copy("/bin/busybox", at("l/bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", at("l/bin/sh")).unwrap();
    let runner = Runner::start().unwrap();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut spec = SandboxSpec::new(
        Rootfs { lowers: vec![at("l")], upper: at("u"), work: at("w"), userxattr: false },
        args,
    );
    spec.env = vec!["PATH=/bin".into()];
    let run = runner.launch(&spec, vec![]).unwrap();
    let end = run
        .wait(&CancelToken::new(), &mut |s, b| print!("{s:?}: {}", String::from_utf8_lossy(b)))
        .unwrap();
    println!("{end:?}");
    let _ = std::process::Command::new("find").arg(at("u")).arg("-ls").status();
}
