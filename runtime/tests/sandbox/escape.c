/* Tries to get out of a sandbox. Each try is a process of its own and prints one line: its name and
 * what the kernel said, `ok` when it was let through. Built without a library at run time: the image
 * of these tests has none. What each try should say is in escape.rs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define CALL(...) return syscall(__VA_ARGS__)
#define TRY(id) static long try_##id(void)

static char page[4096];

/* 0 when a byte could be written, as far as opening can tell. */
static long writable(const char *path) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

static long write_to(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    return write(fd, text, strlen(text)) < 0 ? -1 : 0;
}

/* 0 when there is anything to read; ENODATA when it is empty. */
static long readable(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -1;
    long n = read(fd, page, sizeof page);
    if (n == 0)
        errno = ENODATA;
    return n > 0 ? 0 : -1;
}

static long opened(const char *path) {
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) < 0 ? -1 : 0;
}

static long device(mode_t kind, unsigned major, unsigned minor) {
    if (mknod("/escape-node", kind | 0666, makedev(major, minor)))
        return -1;
    long got = opened("/escape-node");
    int why = errno;
    unlink("/escape-node");
    errno = why;
    return got;
}

static long clone_into(unsigned long flags) {
    long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}

/* mounts */
TRY(mount) { CALL(SYS_mount, "none", "/tmp", "tmpfs", 0, 0); }
TRY(mount_proc) { CALL(SYS_mount, "proc", "/tmp", "proc", 0, 0); }
TRY(mount_bind) { CALL(SYS_mount, "/", "/tmp", 0, 4096 /* MS_BIND */, 0); }
TRY(remount_rw) { CALL(SYS_mount, 0, "/proc/sys", 0, 32 | 4096 /* MS_REMOUNT|MS_BIND */, 0); }
TRY(umount_mask) { CALL(SYS_umount2, "/proc/kcore", 2); }
TRY(umount_proc) { CALL(SYS_umount2, "/proc", 2); }
TRY(pivot_root) { CALL(SYS_pivot_root, "/", "/"); }
TRY(fsopen) { CALL(SYS_fsopen, "tmpfs", 0); }
TRY(fspick) { CALL(SYS_fspick, AT_FDCWD, "/", 0); }
TRY(fsconfig) { CALL(SYS_fsconfig, 0, 0, 0, 0, 0); }
TRY(fsmount) { CALL(SYS_fsmount, 0, 0, 0); }
TRY(open_tree) { CALL(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */); }
TRY(move_mount) { CALL(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/tmp", 0); }
TRY(mount_setattr) { CALL(SYS_mount_setattr, AT_FDCWD, "/proc/sys", 0, page, 32); }
TRY(chroot_up) {
    struct stat before, after;
    int top = open("/", O_RDONLY | O_DIRECTORY);
    if (top < 0 || fstat(top, &before) || mkdir("/escape-jail", 0755) || chroot("/escape-jail"))
        return -1;
    if (fchdir(top))
        return -1;
    for (int i = 0; i < 64; i++)
        if (chdir(".."))
            return -1;
    if (stat(".", &after))
        return -1;
    rmdir("./escape-jail");
    errno = EXDEV;
    return before.st_ino == after.st_ino && before.st_dev == after.st_dev ? -1 : 0;
}
/* namespaces */
TRY(unshare_user) { CALL(SYS_unshare, CLONE_NEWUSER); }
TRY(unshare_mnt) { CALL(SYS_unshare, CLONE_NEWNS); }
TRY(unshare_net) { CALL(SYS_unshare, CLONE_NEWNET); }
TRY(unshare_pid) { CALL(SYS_unshare, CLONE_NEWPID); }
TRY(unshare_ipc) { CALL(SYS_unshare, CLONE_NEWIPC); }
TRY(unshare_uts) { CALL(SYS_unshare, CLONE_NEWUTS); }
TRY(unshare_cgroup) { CALL(SYS_unshare, CLONE_NEWCGROUP); }
TRY(unshare_time) { CALL(SYS_unshare, 0x80 /* CLONE_NEWTIME */); }
TRY(clone_user) { return clone_into(CLONE_NEWUSER); }
TRY(clone_mnt) { return clone_into(CLONE_NEWNS); }
TRY(clone_net) { return clone_into(CLONE_NEWNET); }
TRY(clone_pid) { return clone_into(CLONE_NEWPID); }
TRY(clone_cgroup) { return clone_into(CLONE_NEWCGROUP); }
TRY(clone3_user) {
    unsigned long long args[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long pid = syscall(SYS_clone3, args, sizeof args);
    if (pid == 0)
        _exit(0);
    return pid;
}
TRY(setns_mnt) {
    int fd = open("/proc/1/ns/mnt", O_RDONLY);
    if (fd < 0)
        return -1;
    CALL(SYS_setns, fd, 0);
}
TRY(setns_net) {
    int fd = open("/proc/1/ns/net", O_RDONLY);
    if (fd < 0)
        return -1;
    CALL(SYS_setns, fd, CLONE_NEWNET);
}
TRY(uid_map) { return write_to("/proc/self/uid_map", "0 0 1"); }
/* the kernel */
TRY(keyctl) { CALL(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1); }
TRY(add_key) { CALL(SYS_add_key, "user", "x", "y", 1, KEY_SPEC_SESSION_KEYRING); }
TRY(request_key) { CALL(SYS_request_key, "user", "x", 0, KEY_SPEC_SESSION_KEYRING); }
TRY(bpf) { CALL(SYS_bpf, 0, page, 32); }
TRY(perf_event_open) { CALL(SYS_perf_event_open, page, 0, -1, -1, 0); }
TRY(init_module) { CALL(SYS_init_module, page, 1, ""); }
TRY(finit_module) { CALL(SYS_finit_module, 0, "", 0); }
TRY(delete_module) { CALL(SYS_delete_module, "escape", O_NONBLOCK); }
TRY(kexec_load) { CALL(SYS_kexec_load, 0, 0, 0, 0); }
TRY(kexec_file_load) { CALL(SYS_kexec_file_load, -1, -1, 0, "", 0); }
TRY(reboot) { CALL(SYS_reboot, 0xfee1dead, 672274793, 1 /* no command */, 0); }
TRY(syslog) { CALL(SYS_syslog, 3, page, sizeof page); }
TRY(swapon) { CALL(SYS_swapon, "/escape", 0); }
TRY(swapoff) { CALL(SYS_swapoff, "/escape"); }
TRY(acct) { CALL(SYS_acct, "/escape"); }
TRY(ioperm) { CALL(SYS_ioperm, 0x80, 1, 1); }
TRY(iopl) { CALL(SYS_iopl, 3); }
TRY(open_by_handle_at) {
    struct { unsigned bytes; int type; unsigned char handle[8]; } h = {8, 1, {2}};
    CALL(SYS_open_by_handle_at, AT_FDCWD, &h, O_RDONLY);
}
TRY(userfaultfd) { CALL(SYS_userfaultfd, 0); }
TRY(fanotify_init) { CALL(SYS_fanotify_init, 0, 0); }
TRY(quotactl) { CALL(SYS_quotactl, 0x800002 << 8, "/dev/null", 0, page); }
TRY(io_uring_setup) { CALL(SYS_io_uring_setup, 1, page); }
TRY(io_uring_register) { CALL(SYS_io_uring_register, -1, 0, 0, 0); }
TRY(settimeofday) {
    struct timeval now = {1, -1}; /* refused by a kernel that would set it */
    CALL(SYS_settimeofday, &now, 0);
}
TRY(clock_settime) {
    struct timespec now = {1, -1};
    CALL(SYS_clock_settime, CLOCK_REALTIME, &now);
}
TRY(sethostname) { CALL(SYS_sethostname, "escape", 6); }
TRY(setdomainname) { CALL(SYS_setdomainname, "escape", 6); }
TRY(vhangup) { CALL(SYS_vhangup); }
TRY(personality) { CALL(SYS_personality, 0x0040000 /* ADDR_NO_RANDOMIZE */); }
TRY(mbind) { CALL(SYS_mbind, page, 4096, 0, 0, 0, 0); }
TRY(move_pages) { CALL(SYS_move_pages, 0, 0, 0, 0, 0, 0); }
TRY(lookup_dcookie) { CALL(SYS_lookup_dcookie, 0, page, 1); }
TRY(uselib) { CALL(SYS_uselib, "/x"); }
TRY(sysfs) { CALL(SYS_sysfs, 3); }
TRY(ustat) { CALL(SYS_ustat, 0, page); }
TRY(pidfd_getfd) { CALL(438, -1, 0, 0); }
TRY(kcmp) { CALL(SYS_kcmp, 1, 1, 0, 0, 0); }
TRY(i386_mount) {
    long got;
    /* The numbers of the other calling convention: 21 is mount, 26 would be ptrace. */
    char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    strcpy(low, "tmpfs");
    strcpy(low + 16, "/tmp");
#ifdef __x86_64__
    __asm__ volatile("int $0x80"
                     : "=a"(got)
                     : "a"(21), "b"(low), "c"(low + 16), "d"(low), "S"(0), "D"(0)
                     : "memory", "r8", "r9", "r10", "r11");
#else
    got = -ENOSYS;
#endif
    errno = -got;
    return got < 0 ? -1 : 0;
}
TRY(x32_getpid) { CALL(0x40000000 | SYS_getpid); }
/* sockets */
TRY(socket_alg) { CALL(SYS_socket, 38, SOCK_SEQPACKET, 0); }
TRY(socket_vsock) { CALL(SYS_socket, 40, SOCK_STREAM, 0); }
TRY(iptables) {
    int fd = socket(AF_INET, SOCK_RAW, 255);
    if (fd < 0)
        return -1;
    return setsockopt(fd, 0, 64 /* IPT_SO_SET_REPLACE */, page, 84);
}
TRY(link_up) {
    char request[40] = "lo"; /* struct ifreq */
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    return fd < 0 ? -1 : ioctl(fd, 0x8914 /* SIOCSIFFLAGS */, request);
}
TRY(abstract_socket) {
    struct sockaddr_un a = {AF_UNIX, "\0rgraph-escape"};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return connect(fd, (void *)&a, sizeof a.sun_family + 14);
}
/* /proc and /sys */
TRY(core_pattern) { return writable("/proc/sys/kernel/core_pattern"); }
TRY(modprobe_path) { return writable("/proc/sys/kernel/modprobe"); }
TRY(drop_caches) { return writable("/proc/sys/vm/drop_caches"); }
TRY(binfmt_misc) { return writable("/proc/sys/fs/binfmt_misc/register"); }
TRY(ns_last_pid) { return writable("/proc/sys/kernel/ns_last_pid"); }
TRY(sysctl_chmod) { return chmod("/proc/sys/kernel/core_pattern", 0666); }
TRY(sysrq) { return writable("/proc/sysrq-trigger"); }
TRY(irq) { return writable("/proc/irq/default_smp_affinity"); }
TRY(uevent_helper) { return writable("/sys/kernel/uevent_helper"); }
TRY(power_state) { return writable("/sys/power/state"); }
TRY(cpu_online) { return writable("/sys/devices/system/cpu/cpu0/online"); }
TRY(kcore) { return readable("/proc/kcore"); }
TRY(keys) { return readable("/proc/keys"); }
TRY(timer_list) { return readable("/proc/timer_list"); }
TRY(sched_debug) { return readable("/proc/sched_debug"); }
TRY(kmsg) { return readable("/proc/kmsg"); }
TRY(dev_kmsg) { return opened("/dev/kmsg"); }
TRY(dev_mem) { return opened("/dev/mem"); }
TRY(dev_fuse) { return opened("/dev/fuse"); }
TRY(dev_tun) { return opened("/dev/net/tun"); }
TRY(firmware) { return opened("/sys/firmware/dmi/tables/DMI"); }
TRY(unmask) { return rename("/proc/kcore", "/proc/x"); }
TRY(cgroup_mkdir) { return mkdir("/sys/fs/cgroup/escape", 0755); }
TRY(cgroup_procs) { return writable("/sys/fs/cgroup/cgroup.procs"); }
TRY(release_agent) { return writable("/sys/fs/cgroup/release_agent"); }
TRY(root_of_parent) { return opened("/proc/2/root"); }
TRY(tty) { return opened("/dev/tty"); }
TRY(rewrite_exe) { return writable("/proc/1/exe"); }
TRY(oom_score) { return write_to("/proc/self/oom_score_adj", "-1000"); }
/* devices */
TRY(node_zero) { return device(S_IFCHR, 1, 5); }
TRY(node_mem) { return device(S_IFCHR, 1, 1); }
TRY(node_kmsg) { return device(S_IFCHR, 1, 11); }
TRY(node_fuse) { return device(S_IFCHR, 10, 229); }
TRY(node_disk) { return device(S_IFBLK, 254, 0); }
TRY(node_loop) { return device(S_IFBLK, 7, 0); }
TRY(loop_control) { return device(S_IFCHR, 10, 237); }
/* rights */
TRY(capset) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{~0u, ~0u, 0}, {~0u, ~0u, 0}};
    CALL(SYS_capset, &head, data);
}
TRY(ambient) { return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0); }
TRY(sys_admin_bound) {
    errno = EPERM;
    return prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN) > 0 ? 0 : -1;
}
TRY(rlimit) {
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    limit.rlim_max = 1;
    limit.rlim_cur = 1;
    setrlimit(RLIMIT_CORE, &limit);
    limit.rlim_max = RLIM_INFINITY;
    return setrlimit(RLIMIT_CORE, &limit);
}
TRY(nice) { return setpriority(PRIO_PROCESS, 0, -20); }
TRY(realtime) {
    struct sched_param p = {1};
    return sched_setscheduler(0, SCHED_FIFO, &p);
}
TRY(immutable) {
    int fd = open("/escape-file", O_RDWR | O_CREAT, 0600), flags = 0x10 /* FS_IMMUTABLE_FL */;
    long got = fd < 0 ? -1 : ioctl(fd, FS_IOC_SETFLAGS, &flags);
    int why = errno;
    unlink("/escape-file");
    errno = why;
    return got;
}
TRY(trusted_xattr) { return setxattr("/", "trusted.overlay.opaque", "y", 1, 0); }
TRY(freeze) {
    int fd = open("/", O_RDONLY);
    return ioctl(fd, FIFREEZE, 0);
}
TRY(kill_host) {
    errno = ESRCH;
    /* Everybody that can be seen but this process and the first one. */
    for (int pid = 2; pid < 70000; pid++)
        if (pid != getpid() && pid != getppid() && kill(pid, 0) == 0)
            return 0;
    return -1;
}
TRY(ptrace_others) {
    errno = ESRCH;
    return syscall(SYS_ptrace, 16 /* PTRACE_ATTACH */, 99999, 0, 0);
}

#define ROW(id) {#id, try_##id}
static const struct { const char *name; long (*run)(void); } tries[] = {
    ROW(mount), ROW(mount_proc), ROW(mount_bind), ROW(remount_rw), ROW(fsopen), ROW(fspick), ROW(fsconfig), ROW(fsmount),
    ROW(open_tree), ROW(mount_setattr), ROW(chroot_up), ROW(unshare_user),
    ROW(unshare_mnt), ROW(unshare_net), ROW(unshare_pid), ROW(unshare_ipc), ROW(unshare_uts),
    ROW(unshare_cgroup), ROW(unshare_time), ROW(clone_user), ROW(clone_mnt), ROW(clone_net),
    ROW(clone_pid), ROW(clone_cgroup), ROW(clone3_user), ROW(setns_mnt), ROW(setns_net),
    ROW(uid_map), ROW(keyctl), ROW(add_key), ROW(request_key), ROW(bpf), ROW(perf_event_open),
    ROW(init_module), ROW(finit_module), ROW(delete_module), ROW(kexec_load),
    ROW(kexec_file_load), ROW(reboot), ROW(syslog), ROW(swapon), ROW(swapoff), ROW(acct),
    ROW(ioperm), ROW(iopl), ROW(open_by_handle_at), ROW(userfaultfd), ROW(fanotify_init),
    ROW(quotactl), ROW(io_uring_setup), ROW(io_uring_register), ROW(settimeofday),
    ROW(clock_settime), ROW(sethostname), ROW(setdomainname), ROW(vhangup), ROW(personality),
    ROW(mbind), ROW(move_pages), ROW(lookup_dcookie), ROW(uselib), ROW(sysfs), ROW(ustat),
    ROW(pidfd_getfd), ROW(kcmp), ROW(i386_mount), ROW(x32_getpid), ROW(socket_alg),
    ROW(socket_vsock), ROW(iptables), ROW(link_up), ROW(abstract_socket),
    ROW(core_pattern), ROW(modprobe_path), ROW(drop_caches), ROW(binfmt_misc), ROW(ns_last_pid),
    ROW(sysctl_chmod), ROW(sysrq), ROW(irq), ROW(uevent_helper), ROW(power_state),
    ROW(cpu_online), ROW(kcore), ROW(keys), ROW(timer_list), ROW(sched_debug), ROW(kmsg),
    ROW(dev_kmsg), ROW(dev_mem), ROW(dev_fuse), ROW(dev_tun), ROW(firmware), ROW(unmask),
    ROW(cgroup_mkdir), ROW(cgroup_procs), ROW(release_agent), ROW(root_of_parent), ROW(tty),
    ROW(rewrite_exe), ROW(oom_score), ROW(node_zero), ROW(node_mem), ROW(node_kmsg),
    ROW(node_fuse), ROW(node_disk), ROW(node_loop), ROW(loop_control), ROW(capset), ROW(ambient),
    ROW(sys_admin_bound), ROW(rlimit), ROW(nice), ROW(realtime), ROW(immutable),
    ROW(trusted_xattr), ROW(freeze), ROW(kill_host), ROW(ptrace_others),
    /* Last: where they work, the others miss /proc. */
    ROW(umount_mask), ROW(move_mount), ROW(umount_proc), ROW(pivot_root),
};

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(10);
            errno = 0;
            long got = tries[i].run();
            printf("%s %s\n", tries[i].name, got < 0 ? strerrorname_np(errno) : "ok");
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        if (WIFSIGNALED(status))
            printf("%s SIGNAL%d\n", tries[i].name, WTERMSIG(status));
    }
    return 0;
}
