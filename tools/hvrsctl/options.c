/* hvrsctl options: the table of smb.conf options. */
#include <stdio.h>
#include <string.h>

#include "hvrsctl.h"
#include "option/option.h"

/* Lists the options of smb.conf, or only the names of the features. */
int command_options(int argc, char **argv)
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
		       option_accepts(row));
	}
	return 0;
}
