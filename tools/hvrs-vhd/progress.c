/* A bar for who watches, and the end for who wants it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

#define WIDTH 40

static volatile sig_atomic_t stopped;
static bool drawn;

static uint64_t now_ms(void)
{
	struct timespec ts = {};

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void progress(struct tool *tool, const char *what, uint64_t done, uint64_t all)
{
	static uint64_t last;
	char bar[WIDTH + 1] = "";
	size_t filled = 0;
	uint64_t now = 0;

	if (tool->arguments.quiet || !isatty(STDERR_FILENO) || all == 0) {
		return;
	}
	now = now_ms();
	if (drawn && now - last < 100) {
		return;
	}
	last = now;
	filled = (size_t)((double)done / (double)all * WIDTH);
	memset(bar, '.', WIDTH);
	memset(bar, '#', filled < WIDTH ? filled : WIDTH);
	fprintf(stderr, "\r%s [%s] %3.0f%%", what, bar,
		(double)done * 100 / (double)all);
	drawn = true;
}

void progress_end(struct tool *tool)
{
	(void)tool;
	if (drawn) {
		fprintf(stderr, "\r\033[K");
		drawn = false;
	}
}

static void on_signal(int number)
{
	(void)number;
	stopped = 1;
}

void stop_on_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

bool stop_wanted(void)
{
	return stopped != 0;
}
