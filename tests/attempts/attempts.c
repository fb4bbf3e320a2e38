/*
 * Tries what a sandbox refuses, and appends a line for each attempt to a file:
 *
 *   attempts FILE SOCKET    SOCKET is the agent's
 *
 *   NAME reached            the kernel carried the call out, or found fault with its arguments
 *   NAME ERRNO              the call was refused, or what it needs is not there
 *
 * Every attempt harms nothing where it succeeds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static FILE *report;

/* A call's outcome; some reasons show that it was tried. */
static void tell(const char *name, long result, int tried)
{
	if (result >= 0 || (tried && errno == tried))
		fprintf(report, "%s reached\n", name);
	else
		fprintf(report, "%s %s\n", name, strerrorname_np(errno));
	fflush(report);
}

/* In a child, which alone has what the call has made. */
#define IN_CHILD(name, call, tried) do { \
	pid_t child = fork(); \
	if (child == 0) { \
		tell(name, call, tried); \
		_exit(0); \
	} \
	waitpid(child, NULL, 0); \
} while (0)

static long write_to(const char *path)
{
	int file = open(path, O_WRONLY);
	if (file < 0)
		return -1;
	close(file);
	return 0;
}

static long read_from(const char *path)
{
	int file = open(path, O_RDONLY);
	if (file < 0)
		return -1;
	close(file);
	return 0;
}

static long make(const char *path)
{
	int file = open(path, O_WRONLY | O_CREAT, 0600);
	if (file < 0)
		return -1;
	close(file);
	return unlink(path);
}

static long connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int socket_of = socket(AF_UNIX, SOCK_STREAM, 0);
	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	long result = connect(socket_of, (struct sockaddr *)&address, sizeof(address));
	int kept = errno;
	close(socket_of);
	errno = kept;
	return result;
}

static long enter_namespace(void)
{
	int file = open("/proc/self/ns/uts", O_RDONLY);
	return file < 0 ? -1 : setns(file, 0);
}

/* The kernel looks at the time before it looks at the caller. */
static long set_the_clock(void)
{
	struct timespec wrong = { .tv_nsec = -1 };
	return syscall(__NR_clock_settime, CLOCK_REALTIME, &wrong);
}

static long set_the_day(void)
{
	struct timeval wrong = { .tv_usec = -1 };
	return syscall(__NR_settimeofday, &wrong, NULL);
}

static long be_real_time(void)
{
	struct sched_param param = { .sched_priority = 1 };
	return sched_setscheduler(0, SCHED_FIFO, &param);
}

static long mount_memory(void)
{
	mkdir("/tmp/attempt-mount", 0700);
	if (mount("tmpfs", "/tmp/attempt-mount", "tmpfs", 0, NULL) < 0)
		return -1;
	return umount2("/tmp/attempt-mount", MNT_DETACH);
}

static long name_the_host(void)
{
	char name[65];
	gethostname(name, sizeof(name));
	return sethostname(name, strlen(name));
}

static const char *own(void)
{
	static char path[64];
	snprintf(path, sizeof(path), "/tmp/attempt-%d-%d", getuid(), getpid());
	return path;
}

static long set_uid_by_path(void)
{
	close(open(own(), O_WRONLY | O_CREAT, 0600));
	long result = chmod(own(), 04700);
	unlink(own());
	return result;
}

static long set_uid_by_file(void)
{
	int file = open(own(), O_WRONLY | O_CREAT, 0600);
	long result = fchmod(file, 02700);
	unlink(own());
	return result;
}

static long set_uid_at_birth(void)
{
	int file = open(own(), O_WRONLY | O_CREAT | O_EXCL, 04700);
	unlink(own());
	return file;
}

static long set_uid_of_unnamed(void)
{
	return open("/tmp", O_WRONLY | O_TMPFILE, 04700);
}

/* The devices with these numbers are /dev/null and the first RAM disk. */
static long make_device(mode_t kind, dev_t number)
{
	long result = mknod(own(), kind | 0600, number);
	unlink(own());
	return result;
}

/* getpid(2) of 32-bit programs. A filter for one architecture kills the process. */
static long of_another_architecture(void)
{
	long result = 20;
	__asm__ volatile("int $0x80" : "+a"(result) : : "memory");
	return result;
}

static long clone3_of_nothing(void)
{
	return syscall(__NR_clone3, NULL, 0);
}

int main(int argc, char **argv)
{
	char small[16] = { 0 };
	if (argc < 3 || !(report = fopen(argv[1], "a")))
		return 1;

	/* What it sees. */
	tell("other-home", read_from("/home/other/secret"), 0);
	tell("hosts-tmp", read_from("/tmp/of-the-host"), 0);
	tell("hosts-var-tmp", read_from("/var/tmp/of-the-host"), 0);
	tell("first-process", read_from("/proc/1/stat"), 0);
	tell("files-of-first-process", read_from("/proc/1/root/etc/passwd"), 0);
	tell("agents-socket", connect_to(argv[2]), EACCES);
	tell("kernel-log-device", read_from("/dev/kmsg"), 0);
	tell("host-disk-of-memory", read_from("/dev/mem"), 0);
	/* What it changes. */
	tell("etc", make("/etc/attempt"), 0);
	tell("usr", make("/usr/attempt"), 0);
	tell("kernel-setting", write_to("/proc/sys/kernel/hostname"), 0);
	tell("sysrq", write_to("/proc/sysrq-trigger"), 0);
	tell("sys", write_to("/sys/kernel/mm/transparent_hugepage/enabled"), 0);
	tell("cgroups", write_to("/sys/fs/cgroup/cgroup.procs"), 0);
	/* Mounts. */
	IN_CHILD("mount", mount_memory(), 0);
	IN_CHILD("umount", umount2("/attempt-nowhere", 0), ENOENT);
	IN_CHILD("chroot", chroot("/"), 0);
	IN_CHILD("pivot-root", syscall(__NR_pivot_root, "/", "/nowhere"), ENOENT);
	IN_CHILD("fsopen", syscall(__NR_fsopen, "tmpfs", 0), 0);
	IN_CHILD("open-tree", syscall(__NR_open_tree, AT_FDCWD, "/tmp", 1), 0);
	IN_CHILD("open-by-handle", syscall(__NR_open_by_handle_at, AT_FDCWD, small, 0), EINVAL);
	IN_CHILD("move-mount", syscall(__NR_move_mount, -1, "", -1, "", 0x44), EBADF);
	/* Namespaces. */
	IN_CHILD("unshare-mounts", unshare(CLONE_NEWNS), 0);
	IN_CHILD("unshare-users", unshare(CLONE_NEWUSER), 0);
	IN_CHILD("unshare-network", unshare(CLONE_NEWNET), 0);
	IN_CHILD("unshare-processes", unshare(CLONE_NEWPID), 0);
	IN_CHILD("unshare-name", unshare(CLONE_NEWUTS), 0);
	IN_CHILD("unshare-ipc", unshare(CLONE_NEWIPC), 0);
	IN_CHILD("unshare-cgroup", unshare(CLONE_NEWCGROUP), 0);
	IN_CHILD("unshare-time", unshare(0x80), 0);
	IN_CHILD("setns", enter_namespace(), 0);
	IN_CHILD("clone3", clone3_of_nothing(), EINVAL);
	/* The host. */
	IN_CHILD("clock", set_the_clock(), EINVAL);
	IN_CHILD("day", set_the_day(), EINVAL);
	IN_CHILD("host-name", name_the_host(), 0);
	IN_CHILD("domain-name", setdomainname("(none)", 6), 0);
	IN_CHILD("swap", syscall(__NR_swapoff, "/attempt-nowhere"), ENOENT);
	IN_CHILD("module", syscall(__NR_delete_module, "attempt_none", 0), ENOENT);
	IN_CHILD("module-file", syscall(__NR_finit_module, -1, "", 0), EBADF);
	IN_CHILD("reboot", syscall(__NR_reboot, 0, 0, 0, 0), EINVAL);
	IN_CHILD("accounting", acct("/attempt-nowhere"), ENOENT);
	IN_CHILD("ports", syscall(__NR_ioperm, 0x80, 1, 1), 0);
	IN_CHILD("all-ports", syscall(__NR_iopl, 3), 0);
	IN_CHILD("kernel-log", syscall(__NR_syslog, 3, small, 1), 0);
	IN_CHILD("real-time", be_real_time(), 0);
	IN_CHILD("deadline", syscall(__NR_sched_setattr, 0, NULL, 0), EINVAL);
	/* The kernel's insides. */
	IN_CHILD("bpf", syscall(__NR_bpf, 11, small, 16), ENOENT);
	IN_CHILD("perf", syscall(__NR_perf_event_open, NULL, 0, -1, -1, 0), EFAULT);
	IN_CHILD("ptrace", syscall(__NR_ptrace, 0, 0, 0, 0), 0);
	IN_CHILD("read-memory", syscall(__NR_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0), 0);
	IN_CHILD("write-memory", syscall(__NR_process_vm_writev, getpid(), NULL, 0, NULL, 0, 0), 0);
	IN_CHILD("compare", syscall(__NR_kcmp, getpid(), getpid(), 1, 0, 0), 0);
	IN_CHILD("take-descriptor", syscall(__NR_pidfd_getfd, -1, 0, 0), EBADF);
	IN_CHILD("page-faults", syscall(__NR_userfaultfd, 0x7fff0000), EINVAL);
	IN_CHILD("io-uring", syscall(__NR_io_uring_setup, 1, NULL), EFAULT);
	IN_CHILD("segments", syscall(__NR_modify_ldt, 0, small, 0), 0);
	/* Keyrings. */
	IN_CHILD("keyctl", syscall(__NR_keyctl, 0, -3, 0, 0, 0), 0);
	IN_CHILD("add-key", syscall(__NR_add_key, "user", "attempt", "x", 1, -2), 0);
	IN_CHILD("request-key", syscall(__NR_request_key, "user", "attempt-none", NULL, 0), ENOKEY);
	/* Another user's rights, and other ways. */
	IN_CHILD("set-uid", set_uid_by_path(), 0);
	IN_CHILD("set-gid", set_uid_by_file(), 0);
	IN_CHILD("set-uid-at-birth", set_uid_at_birth(), 0);
	IN_CHILD("set-uid-unnamed", set_uid_of_unnamed(), 0);
	IN_CHILD("device", make_device(S_IFCHR, 0x103), 0);
	IN_CHILD("block-device", make_device(S_IFBLK, 0x100), 0);
	IN_CHILD("personality", syscall(__NR_personality, 0x0040000), 0);
	IN_CHILD("other-architecture", of_another_architecture(), 0);
	IN_CHILD("openat2", syscall(__NR_openat2, -1, "", NULL, 0), EINVAL);
	return 0;
}
