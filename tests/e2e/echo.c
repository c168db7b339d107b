/* Two servers: `echo PORT` answers each datagram with what it holds, `echo PORT count` each connection with
   the number of bytes that came, once all have come. */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char bytes[65536];

static void count(int c) {
    long all = 0;
    ssize_t n;
    while ((n = read(c, bytes, sizeof bytes)) > 0) all += n;
    dprintf(c, "%ld\n", all);
    _exit(0);
}

int main(int argc, char **argv) {
    struct sockaddr_in from, at = {.sin_family = AF_INET};
    int s = socket(AF_INET, argc > 2 ? SOCK_STREAM : SOCK_DGRAM, 0);
    at.sin_port = htons(argc > 1 ? atoi(argv[1]) : 0);
    signal(SIGCHLD, SIG_IGN);
    if (s < 0 || bind(s, (struct sockaddr *)&at, sizeof at)) return 1;
    if (argc > 2) {
        listen(s, 64);
        for (;;) {
            int c = accept(s, 0, 0);
            if (c >= 0 && !fork()) count(c);
            close(c);
        }
    }
    for (;;) {
        socklen_t len = sizeof from;
        ssize_t n = recvfrom(s, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &len);
        if (n >= 0) sendto(s, bytes, n, 0, (struct sockaddr *)&from, len);
    }
}
