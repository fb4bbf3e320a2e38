/*
 * The floor of the benchmarks: what the kernel itself needs for a start and for a restart. It is a
 * static program without a runtime to set up, so its first instruction is as early as can be.
 *
 *   floor stamp FILE        appends "first NANOSECONDS" to FILE, then rests
 *   floor stamp FILE hog    the same, then uses up memory and appends "last NANOSECONDS" at each step
 *   floor starts N FILE     N times: appends "begin NANOSECONDS", forks, executes `stamp FILE`, and
 *                           kills it once it rests
 *   floor restarts N FILE CGROUP
 *                           N + 1 times: forks into CGROUP, executes `stamp FILE hog`, and appends
 *                           "exit NANOSECONDS" when waitid(2) returns
 *   floor exits             ends at once
 *
 * All times are of CLOCK_MONOTONIC.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void append(int file, const char *word, long long time)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%s %lld\n", word, time);
	if (write(file, line, length) != length)
		exit(1);
}

static int open_file(const char *path)
{
	int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (file < 0)
		exit(1);
	return file;
}

static void stamp(const char *path, int hog)
{
	long long first = now();
	int file = open_file(path);
	append(file, "first", first);
	while (!hog)
		pause();
	for (;;) {
		/* The steps are small, so that the last one is close to the end. */
		const size_t step = 64 * 1024;
		char *memory = mmap(NULL, step, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (size_t at = 0; at < step; at += 4096)
			memory[at] = 1;
		append(file, "last", now());
	}
}

/* Returns the size of a file: it grows when the child has stamped. */
static off_t size_of(int file)
{
	return lseek(file, 0, SEEK_END);
}

/* A shell gives the name of this program without its folder. */
static char self[] = "/proc/self/exe";

static void starts(int count, const char *path)
{
	int file = open_file(path);
	while (count-- > 0) {
		append(file, "begin", now());
		off_t before = size_of(file);
		pid_t child = fork();
		if (child == 0) {
			execv(self, (char *[]){ self, "stamp", (char *)path, NULL });
			_exit(1);
		}
		while (size_of(file) == before)
			usleep(1000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
}

static void restarts(int count, const char *path, const char *cgroup)
{
	int file = open_file(path);
	char procs[256];
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", cgroup);
	while (count-- >= 0) {
		pid_t child = fork();
		if (child == 0) {
			int entry = open(procs, O_WRONLY | O_CLOEXEC);
			if (entry < 0 || write(entry, "0", 1) != 1)
				_exit(1);
			execv(self, (char *[]){ self, "stamp", (char *)path, "hog", NULL });
			_exit(1);
		}
		siginfo_t how;
		waitid(P_PID, child, &how, WEXITED);
		append(file, "exit", now());
	}
}

int main(int count, char **argument)
{
	if (count > 2 && !strcmp(argument[1], "stamp"))
		stamp(argument[2], count > 3);
	if (count > 3 && !strcmp(argument[1], "starts"))
		starts(atoi(argument[2]), argument[3]);
	if (count > 4 && !strcmp(argument[1], "restarts"))
		restarts(atoi(argument[2]), argument[3], argument[4]);
	return 0;
}
