//! Builds of a user who has one id: the owners of files and the users of steps are recorded, and what
//! comes of it is what root's builds give.

use rgraph_tests::{Case, Ids, need};

fn case(ids: Option<Ids>) -> Case {
    let case = Case::new();
    let case = match ids {
        Some(ids) => case.of_user(ids),
        None => case,
    };
    case.import_base(rgraph_tests::BASE);
    case
}

fn image(case: &Case, dockerfile: &str) -> rgraph_tests::Image {
    case.dockerfile(dockerfile);
    let path = case.out("i.tar").display().to_string();
    let out = format!("type=oci,dest={path},rewrite-timestamp=true");
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1600000000"];
    case.build(&["--network", "none", epoch[0], epoch[1], "-o", &out]).ok();
    rgraph_tests::Image::from_archive(path.as_ref())
}

/// The same steps by root and with one id: they see the same, so they leave the same.
fn the_same(dockerfile: &str, prepare: &dyn Fn(&Case)) {
    let (root, user) = (case(None), case(Some(Ids::One)));
    prepare(&root);
    prepare(&user);
    let (root, user) = (image(&root, dockerfile), image(&user, dockerfile));
    for (n, (want, got)) in root.layers.iter().zip(&user.layers).enumerate() {
        assert_eq!(got.0, want.0, "layer {n}");
    }
    assert_eq!(user.config["rootfs"], root.config["rootfs"]);
}

#[test]
fn owners_are_seen_and_kept() {
    need!(Root, Tool("setpriv"));
    the_same(
        "FROM BASE AS a
RUN mkdir -p /a/b && touch /a/f /a/b/g && ln -s f /a/l && mkfifo /a/p && chown -R app:apps /a
RUN stat -c '%n %u:%g %a' /a /a/* /a/b/* > /seen
RUN chown 7 /a/f && chown :8 /a/f && chown -h 9:9 /a/l && stat -c '%u:%g' /a/f /a/l >> /seen
RUN mv /a/f /a/moved && cp -a /a /copy && ln /a/moved /a/again && ln /a/l /a/link
RUN chown 0:0 /copy/p /copy/moved && touch /bin/sh && tar -cf - /a | tar -C /tmp -xf -
RUN chmod 6755 /a/moved && chown 5:5 /a/moved && stat -c %a /a/moved >> /seen
RUN find / -xdev -user 5 >> /seen; chown app /dev/stdout && (! chown app /no 2>/dev/null)
FROM a
COPY --from=a --chown=3:4 /seen /given
",
        &|_| {},
    );
}

#[test]
fn a_step_takes_itself_for_its_user() {
    need!(Root, Tool("setpriv"));
    the_same(
        "FROM BASE
RUN id > /id && su -s /bin/sh app -c 'id; cd /tmp && touch f && mkdir d && ln -s f l' >> /id
RUN mkdir /shared && chown :apps /shared && chmod 2775 /shared && mkdir /shared/d && touch /shared/f
USER app
RUN id > /tmp/id && touch /tmp/mine && (! chown 0 /tmp/mine 2>/dev/null) && umask 077 && mkdir /tmp/p
RUN (! su root -c true) 2>/dev/null; echo $HOME > /tmp/home; sh -c 'touch /tmp/child & wait'
USER 12:34
RUN id -u > /tmp/n && id -g >> /tmp/n && echo > /tmp/made && stat -c '%u:%g' /tmp/made >> /tmp/n
USER root
RUN stat -c '%n %u:%g' /tmp/* /shared/* > /end
",
        &|_| {},
    );
}

#[test]
fn owners_come_with_copies_and_stages() {
    need!(Root, Tool("setpriv"));
    the_same(
        "FROM BASE AS a
COPY --chown=app:apps d /d
COPY --chown=7:8 f /e/f
RUN ln -s f /e/l && chown -h 70:80 /e/l && mkfifo /e/p && chown 71:81 /e/p && chown 72:82 /e
FROM BASE
COPY --from=a /d /e /from/
COPY --from=a /e /e/
RUN stat -c '%n %u:%g' /from/* /e /e/* > /seen
WORKDIR /w
RUN --mount=type=bind,from=a,target=/m stat -c %u:%g /m/e /m/e/f /m/e/l > /w/bound
RUN --mount=type=cache,target=/c,uid=55,gid=56 stat -c %u:%g /c > /w/cache && touch /c/f
RUN --mount=type=tmpfs,target=/t touch /t/f && chown 3:4 /t/f && stat -c %u:%g /t/f > /w/memory
",
        &|case| {
            case.file("d/x", "x").file("f", "f");
        },
    );
}

/// A change of owner alone is a change of a tree that is copied from, also of what has no content.
#[test]
fn an_owner_counts_in_what_is_copied() {
    need!(Root, Tool("setpriv"));
    let case = case(Some(Ids::One));
    for owner in ["5:5", "6:6"] {
        case.dockerfile(&format!(
            "FROM BASE AS a\nRUN mkdir /e && ln -s x /e/l && chown -h {owner} /e/l\n\
             FROM BASE\nCOPY --from=a /e /e\nRUN test $(stat -c %u:%g /e/l) = {owner}\n"
        ));
        case.build(&["--network", "none"]).ok();
    }
}

/// Threads, children whose parents are gone, files without names, signals.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#define MUST(x) do { if (!(x)) { printf("%d: %s: %s\n", __LINE__, #x, strerror(errno)); exit(1); } } while (0)
static volatile int stop;
static void *look(void *arg) {
    struct stat s;
    while (!stop) MUST(stat("/tmp/owned", &s) == 0 && s.st_uid == 77 && fstat(0, &s) == 0);
    MUST(geteuid() == 1234);
    return NULL;
}
static void tick(int n) { (void)n; }
int main(int argc, char **argv) {
    struct stat s;
    if (!strcmp(argv[0], "again")) { // run by 1000 who was root
        uid_t r, e, x;
        MUST(getresuid(&r, &e, &x) == 0 && r == 1000 && e == 1000 && x == 1000);
        MUST(seteuid(0) == -1 && errno == EPERM);
        return 0;
    }
    if (argc > 1) { // a set-user-ID program, run by 1234
        MUST(getuid() == 1234 && geteuid() == 77 && setuid(1234) == 0 && geteuid() == 1234);
        MUST(seteuid(77) == 0 && setuid(0) == -1 && errno == EPERM);
        return 0;
    }
    MUST(symlink("/proc/self/exe", "/tmp/exe") == 0);
    for (int i = 0; i < 7; i++) {
        pid_t again = fork();
        if (again == 0) {
            char path[64];
            int own = open("/who", O_RDONLY);
            sprintf(path, "/proc/%d/fd/%d", getpid(), own);
            MUST(own >= 0 && setresuid(1000, 1000, 0) == 0 && chdir(i == 6 ? "/proc" : "/") == 0);
            MUST(execl("/none", "again", NULL) == -1 && errno == ENOENT);
            MUST(execl("/who/none", "again", NULL) == -1 && errno == ENOTDIR);
            MUST(seteuid(0) == 0 && seteuid(1000) == 0);
            char *ways[] = { "/who", "who", "/proc/self/exe", "proc/self/exe", "/tmp/exe", path, "self/exe" };
            execl(ways[i], "again", NULL);
            printf("%s: %s\n", ways[i], strerror(errno));
            exit(1);
        }
        int status;
        MUST(waitpid(again, &status, 0) == again && status == 0);
    }
    int fd = open("/tmp/owned", O_CREAT | O_WRONLY, 0600);
    MUST(fd >= 0 && fchown(fd, 77, 78) == 0 && fstat(fd, &s) == 0 && s.st_gid == 78);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) MUST(pthread_create(&t[i], NULL, look, NULL) == 0);
    struct sigaction act = { .sa_handler = tick };
    MUST(sigaction(SIGALRM, &act, NULL) == 0);
    struct itimerval every = { { 0, 500 }, { 0, 500 } }, never = { { 0, 0 }, { 0, 0 } };
    act.sa_flags = SA_RESTART;
    MUST(sigaction(SIGALRM, &act, NULL) == 0 && setitimer(ITIMER_REAL, &every, NULL) == 0);
    for (int i = 0; i < 3000; i++) MUST(lstat("/tmp/owned", &s) == 0 && s.st_uid == 77);
    MUST(setitimer(ITIMER_REAL, &never, NULL) == 0);
    gid_t groups[2] = { 5, 6 }, got[8];
    MUST(setgroups(2, groups) == 0 && setgid(1235) == 0 && setuid(1234) == 0);
    stop = 1;
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    MUST(getuid() == 1234 && getegid() == 1235 && getgroups(8, got) == 2 && got[1] == 6);
    uid_t r, e, x;
    MUST(getresuid(&r, &e, &x) == 0 && r == 1234 && e == 1234 && x == 1234);
    MUST(setuid(0) == -1 && errno == EPERM && setgroups(0, NULL) == -1);
    MUST(chown("/tmp/owned", 1234, -1) == -1 && errno == EPERM);
    int p[2];
    char c;
    MUST(pipe(p) == 0);
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) { // its parent is gone by then
            usleep(20000);
            MUST(getuid() == 1234 && getgid() == 1235);
            MUST(write(p[1], "x", 1) == 1);
        }
        _exit(0);
    }
    MUST(waitpid(child, NULL, 0) == child && close(p[1]) == 0 && read(p[0], &c, 1) == 1);
    fd = open("/tmp", O_TMPFILE | O_RDWR, 0640);
    char path[64];
    sprintf(path, "/proc/self/fd/%d", fd);
    MUST(fd >= 0 && linkat(AT_FDCWD, path, AT_FDCWD, "/tmp/named", AT_SYMLINK_FOLLOW) == 0);
    MUST(stat("/tmp/named", &s) == 0 && s.st_uid == 1234 && s.st_gid == 1235);
    struct statx sx;
    MUST(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx) == 0 && sx.stx_uid == 1234);
    MUST(open("/tmp/named", O_CREAT | O_EXCL | O_WRONLY, 0600) == -1 && errno == EEXIST);
    umask(027);
    fd = open("/tmp/new", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    MUST(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC && write(fd, "text", 4) == 4);
    MUST(fstat(fd, &s) == 0 && (s.st_mode & 07777) == 0640 && s.st_uid == 1234 && s.st_size == 4);
    MUST(stat("/tmp/none", &s) == -1 && errno == ENOENT && stat((char *)8, &s) == -1 && errno == EFAULT);
    MUST(stat("/tmp/owned", (struct stat *)8) == -1 && errno == EFAULT);
    MUST(stat("/proc/self/exe", &s) == 0 && S_ISREG(s.st_mode));
    MUST(fstat(99, &s) == -1 && errno == EBADF && mkdir("/tmp/named", 0700) == -1 && errno == EEXIST);
    execl("/suid", "suid", "x", NULL);
    MUST(0);
}
"#;

#[test]
fn programs_with_threads_and_children_are_answered() {
    need!(Root, Tool("setpriv"), Tool("gcc"));
    let case = case(Some(Ids::One));
    let source = case.out("who.c");
    std::fs::write(&source, PROGRAM).expect("a file");
    let built = std::process::Command::new("gcc")
        .args(["-static", "-pthread", "-w", "-o"])
        .arg(case.context().join("who"))
        .arg(&source)
        .status()
        .expect("gcc");
    assert!(built.success());
    case.dockerfile(
        "FROM BASE
COPY --chmod=755 who /who
RUN cp /who /suid && chown 77:77 /suid && chmod 4755 /suid && test $(stat -c %a /suid) = 4755
RUN timeout 60 /who
RUN test $(stat -c %u:%g:%a /tmp/new) = 1234:1235:640 && test $(cat /tmp/new) = text
",
    );
    case.build(&["--network", "none"]).ok();
}

/// What would have to be the kernel's to judge is not pretended.
#[test]
fn what_is_told_of_it() {
    need!(Root, Tool("setpriv"));
    let case = case(Some(Ids::One));
    let help = ["/etc/subuid", "usermod --add-subuids"];
    case.dockerfile("FROM BASE\nRUN true\n");
    let run = case.build(&["--network", "none"]).ok();
    let doctor = case.rgraph(&["doctor"]).ok();
    for h in help.into_iter().chain(["recorded"]) {
        assert!(run.stderr.contains(h) && doctor.text().contains(h), "{h}: {}", run.stderr);
    }
}

/// What was built with one id is not taken for what several gave, nor the reverse.
#[test]
fn a_state_root_keeps_owners_in_one_way() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for (before, after, said) in [
        (Ids::One, Ids::Range, "was written with one id"),
        (Ids::Range, Ids::One, "was written with several ids"),
    ] {
        let case = case(Some(before));
        let case = case.of_user(after);
        case.dockerfile("FROM BASE\nRUN true\n");
        case.build(&["--network", "none"]).fails(1, &[said, "--root"]);
        let case = case.of_user(before);
        case.build(&["--network", "none"]).ok();
    }
}
