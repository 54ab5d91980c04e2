/* Other programs asked, and smb.conf as Samba's own testparm understands it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hvrsctl.h"

char *hvrsctl_run(TALLOC_CTX *mem_ctx, int *_status, char *const argv[])
{
	char *out = talloc_strdup(mem_ctx, "");
	char buffer[4096];
	int pipes[2] = { -1, -1 };
	ssize_t got = 0;
	int status = 0;
	pid_t pid = -1;

	*_status = -1;
	if (out == NULL || pipe2(pipes, O_CLOEXEC) != 0) {
		return out;
	}
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 0);
		dup2(pipes[1], 1);
		dup2(null, 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(pipes[1]);
	while (pid > 0 && out != NULL) {
		got = read(pipes[0], buffer, sizeof(buffer));
		if (got == -1 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			break;
		}
		out = talloc_strndup_append(out, buffer, (size_t)got);
	}
	close(pipes[0]);
	if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status)) {
		*_status = WEXITSTATUS(status);
	}
	return out;
}

/* "[name]" and "parameter = value" lines, names in small letters. */
static void parse(json_t *all, char *text)
{
	char *save = NULL;
	char *line = NULL;
	json_t *section = NULL;

	for (line = strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		char *mark = NULL;

		line += strspn(line, " \t");
		if (*line == '[') {
			mark = strrchr(line, ']');
			if (mark == NULL) {
				continue;
			}
			*mark = '\0';
			section = json_object_get(all, line + 1);
			if (section == NULL) {
				section = json_object();
				json_object_set_new(all, line + 1, section);
			}
			continue;
		}
		mark = strstr(line, " = ");
		if (mark == NULL || *line == '#' || section == NULL) {
			continue;
		}
		*mark = '\0';
		json_object_set_new(section, line, json_string(mark + 3));
	}
}

json_t *hvrsctl_config(const char *file)
{
	char *testparm[] = { (char *)"testparm", (char *)"-s",
			     (char *)file, NULL };
	char *list[] = { (char *)"net", (char *)"conf", (char *)"list", NULL };
	json_t *all = json_object();
	int status = 0;
	char *text = hvrsctl_run(NULL, &status, testparm);

	if (status != 0 || text == NULL) {
		fprintf(stderr, "hvrsctl: testparm does not accept %s; run "
			"\"testparm -s\" to see why\n",
			file != NULL ? file : "smb.conf");
		talloc_free(text);
		json_decref(all);
		return NULL;
	}
	parse(all, text);
	talloc_free(text);
	/* testparm does not show shares that are loaded when asked for. */
	if (file == NULL && strcasecmp(hvrsctl_value(
		all, "global", "registry shares", "No"), "yes") == 0) {
		text = hvrsctl_run(NULL, &status, list);
		if (status == 0 && text != NULL) {
			parse(all, text);
		}
		talloc_free(text);
	}
	return all;
}

const char *hvrsctl_value(const json_t *config, const char *section,
			  const char *parameter, const char *otherwise)
{
	const char *value = json_string_value(json_object_get(
		json_object_get(config, section), parameter));

	if (value == NULL) {
		value = json_string_value(json_object_get(
			json_object_get(config, "global"), parameter));
	}
	return value != NULL ? value : otherwise;
}

char *hvrsctl_modules_directory(TALLOC_CTX *mem_ctx)
{
	char *argv[] = { (char *)"smbd", (char *)"-b", NULL };
	int status = 0;
	char *text = hvrsctl_run(mem_ctx, &status, argv);
	char *found = text != NULL ? strstr(text, "MODULESDIR: ") : NULL;
	char *result = NULL;

	if (found != NULL) {
		found += strlen("MODULESDIR: ");
		result = talloc_strndup(mem_ctx, found,
					strcspn(found, "\n"));
	}
	talloc_free(text);
	return result;
}
