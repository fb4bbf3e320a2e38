/*
 * Says that it is ready, as sd_notify(3) describes the protocol, without a library: then it says every
 * 100 ms that it is alive, until a signal ends it.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int say(int socket_of, const struct sockaddr_un *to, const char *text)
{
	socklen_t length = sizeof(*to);
	return sendto(socket_of, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)to, length) < 0;
}

int main(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int socket_of = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (!path || strlen(path) >= sizeof(to.sun_path) || socket_of < 0)
		return 2;
	strcpy(to.sun_path, path);
	if (say(socket_of, &to, "STATUS=of C\nREADY=1\n"))
		return 3;
	for (;;) {
		usleep(100 * 1000);
		if (say(socket_of, &to, "WATCHDOG=1"))
			return 4;
	}
}
