/*
 * hvrs-vhd: virtual disks of Hyper-V on a server without it.  Commands are
 * rows of a table, one file or two each.
 */
#include <stdio.h>
#include <string.h>

#include <popt.h>

#include "tool.h"

static const struct {
	const char *name;
	size_t least, most;	/* files and other words */
	const char *words;
	const char *help;
	int (*run)(struct tool *tool);
} commands[] = {
	{ "info", 1, 1, "FILE", "what a disk is", command_info },
	{ "check", 1, 1, "FILE", "whether it is sound; --repair mends",
	  command_check },
	{ "create", 1, 1, "FILE", "a new disk: --size S [--fixed], or "
	  "--parent P", command_create },
	{ "convert", 2, 2, "FROM TO", "into another format, sharing blocks "
	  "where it can", command_convert },
	{ "resize", 2, 2, "FILE SIZE", "grow, or shrink where it is empty",
	  command_resize },
	{ "compact", 1, 1, "FILE", "give back what it does not use",
	  command_compact },
	{ "map", 1, 1, "FILE", "where its data lies", command_map },
	{ "dump-log", 1, 1, "FILE", "the log of a VHDX", command_dump_log },
	{ "snapshot", 2, 4, "list|create|apply|delete|export SET [ID [TO]]",
	  "the snapshots of a VHD Set", command_snapshot },
};

#define COUNT (sizeof(commands) / sizeof(commands[0]))

static void usage(FILE *out)
{
	size_t i = 0;

	fprintf(out, "usage: hvrs-vhd COMMAND [OPTION]... FILE...\n\n");
	for (i = 0; i < COUNT; i++) {
		fprintf(out, "  %s %s\n      %s\n", commands[i].name,
			commands[i].words, commands[i].help);
	}
	fprintf(out, "\n\"hvrs-vhd --help\" lists the options\n");
}

static int read_size(const char *name, const char *text, uint64_t *_size)
{
	if (text != NULL && !size_parse(text, _size)) {
		fprintf(stderr, "hvrs-vhd: --%s %s is no size; write 64G, "
			"512M or bytes\n", name, text);
		return TOOL_USAGE;
	}
	return TOOL_OK;
}

static int read_arguments(int argc, const char **argv,
			  struct arguments *arguments)
{
	const char *size = NULL;
	const char *block = NULL;
	const char *sector = NULL;
	const char *physical = NULL;
	struct poptOption options[] = {
		{ "format", 'f', POPT_ARG_STRING, &arguments->format, 0,
		  "of the new file: raw, vhd, vhdx or vhds; its name tells "
		  "otherwise", "FORMAT" },
		{ "size", 's', POPT_ARG_STRING, &size, 0, "of a new disk",
		  "SIZE" },
		{ "parent", 'P', POPT_ARG_STRING, &arguments->parent, 0,
		  "make a differencing disk of it", "FILE" },
		{ "fixed", 'F', POPT_ARG_NONE, &arguments->fixed, 0,
		  "all space is there from the start", NULL },
		{ "block-size", 'b', POPT_ARG_STRING, &block, 0,
		  "1M to 256M, a power of two", "SIZE" },
		{ "sector", 0, POPT_ARG_STRING, &sector, 0,
		  "logical sector, 512 or 4096", "BYTES" },
		{ "physical-sector", 0, POPT_ARG_STRING, &physical, 0,
		  "512 or 4096", "BYTES" },
		{ "root", 0, POPT_ARG_STRING, &arguments->root, 0,
		  "the folder parents may lie in; the disk's own otherwise",
		  "DIR" },
		{ "repair", 0, POPT_ARG_NONE, &arguments->repair, 0,
		  "mend what check finds", NULL },
		{ "discard", 0, POPT_ARG_NONE, &arguments->discard, 0,
		  "resize may lose data", NULL },
		{ "json", 'j', POPT_ARG_NONE, &arguments->json, 0,
		  "tell it as JSON", NULL },
		{ "quiet", 'q', POPT_ARG_NONE, &arguments->quiet, 0,
		  "say nothing but errors", NULL },
		POPT_AUTOHELP
		POPT_TABLEEND
	};
	poptContext context = poptGetContext("hvrs-vhd", argc, argv, options,
					     0);
	const char *word = NULL;
	int option = 0;

	poptSetOtherOptionHelp(context, "COMMAND [OPTION]... FILE...");
	option = poptGetNextOpt(context);
	if (option < -1) {
		fprintf(stderr, "hvrs-vhd: %s: %s\n",
			poptBadOption(context, 0), poptStrerror(option));
		return TOOL_USAGE;
	}
	while ((word = poptGetArg(context)) != NULL) {
		if (arguments->count == 4) {
			return TOOL_USAGE;
		}
		arguments->files[arguments->count++] = word;
	}
	if (read_size("size", size, &arguments->size) != TOOL_OK ||
	    read_size("block-size", block, &arguments->block_size) !=
		    TOOL_OK ||
	    read_size("sector", sector, &arguments->sector) != TOOL_OK ||
	    read_size("physical-sector", physical, &arguments->physical) !=
		    TOOL_OK ||
	    arguments->block_size > UINT32_MAX ||
	    arguments->sector > UINT32_MAX ||
	    arguments->physical > UINT32_MAX) {
		return TOOL_USAGE;
	}
	return TOOL_OK;
}

int main(int argc, const char **argv)
{
	struct tool tool = {};
	size_t i = 0;
	int ret = TOOL_USAGE;

	if (argc < 2) {
		usage(stderr);
		return TOOL_USAGE;
	}
	for (i = 0; i < COUNT && strcmp(argv[1], commands[i].name) != 0; i++) {
	}
	if (i == COUNT) {
		/* --help, or a mistake */
		ret = read_arguments(argc, argv, &tool.arguments);
		usage(stderr);
		return TOOL_USAGE;
	}
	ret = read_arguments(argc - 1, argv + 1, &tool.arguments);
	if (ret == TOOL_OK &&
	    (tool.arguments.count < commands[i].least ||
	     tool.arguments.count > commands[i].most)) {
		fprintf(stderr, "usage: hvrs-vhd %s [OPTION]... %s\n",
			commands[i].name, commands[i].words);
		ret = TOOL_USAGE;
	}
	if (ret != TOOL_OK) {
		return ret;
	}
	tool.mem_ctx = talloc_new(NULL);
	tool.ev = tevent_context_init(tool.mem_ctx);
	if (tool.ev == NULL) {
		fprintf(stderr, "hvrs-vhd: no memory\n");
		return TOOL_FAILED;
	}
	stop_on_signals();
	ret = commands[i].run(&tool);
	talloc_free(tool.mem_ctx);
	return ret;
}
