/*
 * hvrsctl: the administrator's tool.  Commands are rows of a table.
 */
#include <stdio.h>
#include <string.h>

#include "option/option.h"

struct command {
	const char *name;
	const char *arguments;
	const char *help;
	int (*run)(int argc, char **argv);
};

/* Lists the options of smb.conf, or only the names of the features. */
static int command_options(int argc, char **argv)
{
	size_t i = 0;

	if (argc > 1 || (argc == 1 && strcmp(argv[0], "--features") != 0)) {
		fprintf(stderr, "hvrsctl options: unknown argument \"%s\"; "
			"--features is all it takes\n", argv[argc - 1]);
		return 2;
	}
	for (i = 0; i < OPTION_COUNT; i++) {
		const struct option_row *row = option_row_get(i);

		if (argc == 1) {
			if (row->feature) {
				printf("%s\n", row->name);
			}
			continue;
		}
		printf("%-7s hvrs:%s = %s\n        %s.\n        Accepted: "
		       "%s.\n", row->global ? "global" : "share", row->name,
		       row->standard, row->help,
		       option_kind_accepts(row->kind));
	}
	return 0;
}

static const struct command commands[] = {
	{ "options", "[--features]",
	  "the options of smb.conf with their defaults", command_options },
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
