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
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
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

/* Makes a file and removes it. Others may make and remove the same file meanwhile. */
static long make(const char *path)
{
	int file = open(path, O_WRONLY | O_CREAT, 0600);
	if (file < 0)
		return -1;
	close(file);
	return unlink(path) < 0 && errno != ENOENT ? -1 : 0;
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

/* A process of the same user, which is none of ours. */
static pid_t sibling(void)
{
	pid_t found = 0;
	DIR *all = opendir("/proc");
	for (struct dirent *one; all && (one = readdir(all));) {
		char path[300], program[300];
		struct stat owned;
		pid_t pid = atoi(one->d_name);
		snprintf(path, sizeof(path), "/proc/%s/exe", one->d_name);
		if (pid <= 1 || pid == getpid() || pid == getppid() || getsid(pid) == getsid(0))
			continue;
		/* A thread of the kernel has no program. */
		if (readlink(path, program, sizeof(program)) < 0 && errno == ENOENT)
			continue;
		snprintf(path, sizeof(path), "/proc/%d", pid);
		if (stat(path, &owned) == 0 && owned.st_uid == getuid())
			found = pid;
	}
	if (all)
		closedir(all);
	return found;
}

static long read_of_sibling(const char *file)
{
	char path[64];
	pid_t pid = sibling();
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	return pid ? read_from(path) : (errno = ESRCH, -1);
}

static long signal_sibling(void)
{
	pid_t pid = sibling();
	return pid ? kill(pid, 0) : (errno = ESRCH, -1);
}

/* This program without arguments ends with 1. */
static long execute(const char *path)
{
	int status = 0;
	pid_t child = fork();
	if (child == 0) {
		execl(path, path, (char *)NULL);
		_exit(errno);
	}
	waitpid(child, &status, 0);
	errno = WEXITSTATUS(status);
	return errno == 1 ? 0 : -1;
}

static long execute_own(void)
{
	char part[4096];
	int from = open("/proc/self/exe", O_RDONLY);
	int to = open(own(), O_WRONLY | O_CREAT | O_TRUNC, 0700);
	for (ssize_t length; (length = read(from, part, sizeof(part))) > 0;)
		if (write(to, part, length) < 0)
			return -1;
	close(from);
	close(to);
	long result = execute(own());
	int kept = errno;
	unlink(own());
	errno = kept;
	return result;
}

/* What ld.so does with a program that it is given as an argument. */
static long map_own(void)
{
	int file = open(own(), O_RDWR | O_CREAT | O_TRUNC, 0700);
	if (file < 0 || ftruncate(file, 4096) < 0)
		return -1;
	void *mapped = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
	int kept = errno;
	unlink(own());
	errno = kept;
	return mapped == MAP_FAILED ? -1 : 0;
}

static long other_pair(void)
{
	int both[2];
	return socketpair(AF_INET, SOCK_STREAM, 0, both);
}

static long own_owner(void)
{
	close(open(own(), O_WRONLY | O_CREAT, 0600));
	long result = chown(own(), -1, getgid());
	int kept = errno;
	unlink(own());
	errno = kept;
	return result;
}

static long same_cpus(void)
{
	cpu_set_t cpus;
	return sched_getaffinity(0, sizeof(cpus), &cpus) ?: sched_setaffinity(0, sizeof(cpus), &cpus);
}

static long same_priority(void)
{
	return setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0));
}

/* The class "best effort", which is the usual one. */
static long same_io_priority(void)
{
	return syscall(__NR_ioprio_set, 1, 0, 2 << 13 | 4);
}

static long same_groups(void)
{
	gid_t groups[64];
	int count = getgroups(64, groups);
	return count < 0 ? -1 : setgroups(count, groups);
}

static long abstract_socket(void)
{
	/* The test listens there. */
	static const char name[] = "\0attempts";
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int socket_of = socket(AF_UNIX, SOCK_STREAM, 0);
	memcpy(address.sun_path, name, sizeof(name) - 1);
	socklen_t length = offsetof(struct sockaddr_un, sun_path) + sizeof(name) - 1;
	return connect(socket_of, (struct sockaddr *)&address, length);
}

static long open_socket(int family, int type, int protocol)
{
	int found = socket(family, type, protocol);
	return found < 0 ? -1 : close(found);
}

static socklen_t address_of(struct sockaddr_storage *of, const char *text, int port)
{
	struct sockaddr_in *four = (struct sockaddr_in *)of;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)of;
	memset(of, 0, sizeof(*of));
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		return sizeof(*four);
	}
	inet_pton(AF_INET6, text, &six->sin6_addr);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	return sizeof(*six);
}

static long bind_to(const char *text, int type, int port)
{
	struct sockaddr_storage address;
	socklen_t length = address_of(&address, text, port);
	int socket_of = socket(address.ss_family, type, 0);
	long result = bind(socket_of, (struct sockaddr *)&address, length);
	int kept = errno;
	close(socket_of);
	errno = kept;
	return result;
}

/* The outcomes that come after the filters: there may be no way to the peer. */
static long was_tried(long result)
{
	static const int tried[] = { EINPROGRESS, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL, ECONNREFUSED };
	for (size_t index = 0; result < 0 && index < sizeof(tried) / sizeof(*tried); index++)
		if (errno == tried[index])
			return 0;
	return result;
}

static long connect_out(const char *text, int port)
{
	struct sockaddr_storage address;
	socklen_t length = address_of(&address, text, port);
	int socket_of = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	return was_tried(connect(socket_of, (struct sockaddr *)&address, length));
}

static long send_out(const char *text, int type, int flags)
{
	struct sockaddr_storage address;
	socklen_t length = address_of(&address, text, 9);
	int socket_of = socket(address.ss_family, type | SOCK_NONBLOCK, 0);
	return was_tried(sendto(socket_of, "x", 1, flags, (struct sockaddr *)&address, length));
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
	/* What is left to a sandbox that is not strict. Files: */
	tell("make-elsewhere", make("/srv/free/attempt"), 0);
	tell("write-elsewhere", write_to("/srv/free/file"), 0);
	tell("mode-elsewhere", chmod("/srv/free/file", 0666), 0);
	tell("truncate-elsewhere", truncate("/srv/free/file", 0), 0);
	IN_CHILD("execute-elsewhere", execute("/srv/free/program"), 0);
	IN_CHILD("execute-own", execute_own(), 0);
	IN_CHILD("map-own", map_own(), 0);
	IN_CHILD("managers-socket", connect_to("/run/systemd/private"), 0);
	/* Processes of the same user. */
	tell("sibling-environment", read_of_sibling("environ"), 0);
	tell("sibling-files", read_of_sibling("root/etc/passwd"), 0);
	tell("signal-sibling", signal_sibling(), 0);
	IN_CHILD("abstract-socket", abstract_socket(), 0);
	/* The network. */
	tell("packet-socket", open_socket(AF_PACKET, SOCK_RAW, 0), 0);
	tell("raw-socket", open_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), 0);
	tell("multipath-socket", open_socket(AF_INET, SOCK_STREAM, 262), 0);
	tell("events-socket", open_socket(AF_NETLINK, SOCK_RAW, 15), 0);
	tell("other-pair", other_pair(), EOPNOTSUPP);
	tell("bind", bind_to("0.0.0.0", SOCK_STREAM, 17171), 0);
	tell("bind6", bind_to("::1", SOCK_STREAM, 17171), 0);
	tell("bind-datagrams", bind_to("127.0.0.1", SOCK_DGRAM, 17171), 0);
	tell("connect", connect_out("192.0.2.1", 9), 0);
	tell("connect6", connect_out("2001:db8::1", 9), 0);
	tell("connect-mapped", connect_out("::ffff:192.0.2.1", 9), 0);
	tell("connect-fast", send_out("192.0.2.1", SOCK_STREAM, MSG_FASTOPEN), 0);
	tell("send", send_out("192.0.2.1", SOCK_DGRAM, 0), 0);
	tell("send6", send_out("2001:db8::1", SOCK_DGRAM, 0), 0);
	tell("send-mapped", send_out("::ffff:192.0.2.1", SOCK_DGRAM, 0), 0);
	/* Rights. */
	IN_CHILD("owner", own_owner(), 0);
	IN_CHILD("user", setuid(getuid()), 0);
	IN_CHILD("groups", same_groups(), 0);
	IN_CHILD("priority", same_priority(), 0);
	IN_CHILD("cpus", same_cpus(), 0);
	IN_CHILD("io-priority", same_io_priority(), 0);
	return 0;
}
