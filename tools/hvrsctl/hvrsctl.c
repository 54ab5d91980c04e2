/*
 * hvrsctl: the administrator's tool.  Commands are rows of a table.
 */
#include <stdio.h>
#include <string.h>

#include "hvrsctl.h"

struct command {
	const char *name;
	const char *arguments;
	const char *help;
	int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
	{ "status", "[--json | --prometheus FILE]",
	  "shares, features, handles, disks on one screen", command_status },
	{ "doctor", "[--json] [--module | --config FILE]",
	  "what to change for Hyper-V", command_doctor },
	{ "enable", "[--config FILE] SHARE",
	  "gives a share hvrs in smb.conf or the registry", command_enable },
	{ "disable", "[--config FILE] SHARE",
	  "takes it back", command_disable },
	{ "options", "[--features]",
	  "the options of smb.conf with their defaults", command_options },
	{ "handles", "[--json | close ID]",
	  "persistent and resilient handles; close ends one",
	  command_handles },
	{ "disks", "[--json]",
	  "shared virtual disks that are open", command_disks },
	{ "snapshots", "[--json]",
	  "the shadow copy sets of remote VSS", command_snapshots },
	{ "qos", "policy add|set|remove|list|import, or flows",
	  "policies and flows of storage QoS", command_qos },
	{ "tokens", "[--json]",
	  "the live tokens of offload data transfer", command_tokens },
};

static void usage(FILE *out)
{
	size_t i = 0;

	fprintf(out, "usage: hvrsctl COMMAND [ARGUMENT]...\n\n");
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		fprintf(out, "  %s %s\n      %s\n", commands[i].name,
			commands[i].arguments, commands[i].help);
	}
}

int main(int argc, char **argv)
{
	size_t i = 0;

	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		usage(stdout);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("hvrsctl %s\n", HVRS_VERSION);
		return 0;
	}
	for (i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]);
	     i++) {
		if (strcmp(argv[1], commands[i].name) == 0) {
			return commands[i].run(argc - 2, argv + 2);
		}
	}
	if (argc > 1) {
		fprintf(stderr, "hvrsctl: unknown command \"%s\"\n", argv[1]);
	}
	usage(stderr);
	return 2;
}
