/* How the tool says things. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tool.h"

/* What an errno of the engines means to an administrator. */
static const char *error_text(int error)
{
	switch (error < 0 ? -error : error) {
	case EBADMSG:
		return "it is damaged";
	case ENOTSUP:
		return "it uses what is not supported here";
	case ESTALE:
		return "its parent has changed since, or is another file";
	case EFBIG:
		return "it is too large";
	case EBUSY:
		return "it is in use, or holds what would be lost";
	default:
		return strerror(error < 0 ? -error : error);
	}
}

int tool_fail(const char *path, int error, const char *what, const char *why)
{
	fprintf(stderr, "hvrs-vhd: %s: %s: %s%s%s\n", path, what,
		error_text(error), why != NULL ? ": " : "",
		why != NULL ? why : "");
	return TOOL_FAILED;
}

static const struct {
	char letter;
	unsigned shift;
	const char *name;
} units[] = {
	{ 'T', 40, "TiB" }, { 'G', 30, "GiB" }, { 'M', 20, "MiB" },
	{ 'K', 10, "KiB" },
};

#define UNITS (sizeof(units) / sizeof(units[0]))

const char *size_text(uint64_t size, char text[32])
{
	size_t i = 0;

	for (i = 0; i < UNITS; i++) {
		uint64_t unit = UINT64_C(1) << units[i].shift;

		if (size >= unit && size % unit == 0) {
			snprintf(text, 32, "%llu %s",
				 (unsigned long long)(size / unit),
				 units[i].name);
			return text;
		}
	}
	snprintf(text, 32, "%llu bytes", (unsigned long long)size);
	return text;
}

bool size_parse(const char *text, uint64_t *_size)
{
	char *end = NULL;
	unsigned long long value = 0;
	size_t i = 0;

	if (text[0] < '0' || text[0] > '9') {
		return false;
	}
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0) {
		return false;
	}
	for (i = 0; i < UNITS && *end != '\0'; i++) {
		if ((*end & ~0x20) != units[i].letter) {
			continue;
		}
		if (value > UINT64_MAX >> units[i].shift) {
			return false;
		}
		value <<= units[i].shift;
		end++;
		if (strcasecmp(end, "iB") == 0 || strcasecmp(end, "B") == 0) {
			end = strchr(end, '\0');
		}
		break;
	}
	if (*end != '\0') {
		return false;
	}
	*_size = value;
	return true;
}

static const char *const formats[] = {
	[FORMAT_RAW] = "raw", [FORMAT_VHD] = "vhd", [FORMAT_VHDX] = "vhdx",
	[FORMAT_SET] = "vhds",
};

const char *format_text(enum format format)
{
	return formats[format];
}

static bool ends_in(const char *path, const char *ending)
{
	size_t length = strlen(path);
	size_t size = strlen(ending);

	return length > size && strcasecmp(path + length - size, ending) == 0;
}

int format_choose(const char *word, const char *path, enum format *_format)
{
	size_t i = 0;

	if (word != NULL) {
		for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
			if (strcasecmp(word, formats[i]) == 0) {
				*_format = (enum format)i;
				return 0;
			}
		}
		return -EINVAL;
	}
	*_format = ends_in(path, ".vhdx") || ends_in(path, ".avhdx")
			   ? FORMAT_VHDX
		   : ends_in(path, ".vhds") ? FORMAT_SET
		   : ends_in(path, ".vhd") || ends_in(path, ".avhd")
			   ? FORMAT_VHD : FORMAT_RAW;
	return 0;
}

const char *type_text(enum vhdx_type type)
{
	switch (type) {
	case VHDX_FIXED:
		return "fixed";
	case VHDX_DYNAMIC:
		return "dynamic";
	case VHDX_DIFFERENCING:
		return "differencing";
	}
	return "unknown";
}
