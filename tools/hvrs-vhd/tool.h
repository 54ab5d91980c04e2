/*
 * What the commands of hvrs-vhd share: disks of any format opened for reading,
 * new files that appear only when they are whole, progress, words.
 */
#ifndef HVRS_VHD_TOOL_H
#define HVRS_VHD_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <talloc.h>
#include <tevent.h>

#include "store/store.h"
#include "vhd/vhd.h"
#include "vhdset/vhdset.h"
#include "vhdx/vhdx.h"

/* Exit status. */
#define TOOL_OK		0
#define TOOL_FAILED	1	/* it was said why */
#define TOOL_USAGE	2
#define TOOL_DAMAGED	3	/* check found damage */

enum format {
	FORMAT_RAW,
	FORMAT_VHD,
	FORMAT_VHDX,
	FORMAT_SET,
};

/* Options of all commands; each uses some. */
struct arguments {
	const char *format;	/* raw, vhd, vhdx, vhds; NULL: by the name */
	const char *parent;
	const char *root;	/* the folder parents may lie in */
	uint64_t size;
	uint64_t block_size;
	uint64_t sector;
	uint64_t physical;
	int fixed;
	int json;
	int repair;
	int discard;
	int quiet;
	const char *files[4];	/* what is no option */
	size_t count;
};

struct tool {
	TALLOC_CTX *mem_ctx;
	struct tevent_context *ev;
	bool no_writers;	/* disks that are being written are refused */
	struct arguments arguments;
};

/* ---- words.c ---------------------------------------------------------------- */

/* Says what failed, on which file and why, and gives TOOL_FAILED. */
int tool_fail(const char *path, int error, const char *what, const char *why);

/* A size as text: 64 GiB, 1536 KiB, 17 bytes. */
const char *size_text(uint64_t size, char text[32]);

/* 64G, 1T, 512; false for what is no size. */
bool size_parse(const char *text, uint64_t *_size);

const char *format_text(enum format format);

/* By the option, else by the name's ending. -EINVAL for an unknown word. */
int format_choose(const char *word, const char *path, enum format *_format);

const char *type_text(enum vhdx_type type);

/* ---- progress.c --------------------------------------------------------------- */

/* Draws a bar on a terminal, at most ten times a second. */
void progress(struct tool *tool, const char *what, uint64_t done,
	      uint64_t all);
void progress_end(struct tool *tool);

/* Ctrl-C and the like: whether it was wanted that we stop. */
void stop_on_signals(void);
bool stop_wanted(void);

/* ---- disk.c ------------------------------------------------------------------- */

struct disk {
	enum format format;
	const char *path;	/* as it was named */
	const char *file;	/* the leaf of a set, else path */
	int fd;			/* of that file, for clones */
	struct store *store;
	struct vhdx *vhdx;
	struct vhd *vhd;
	struct vhdset *set;
	uint64_t size;
};

struct extent {
	bool data;
	uint64_t offset;
	uint64_t length;
	uint64_t file_offset;
	unsigned depth;
};

/*
 * Opens a disk of whatever format its first bytes say, with its parents.
 * writable: for a change, which nobody else may make at the same time.
 * NULL after a message.
 */
struct disk *disk_open(struct tool *tool, const char *path, bool writable);

/* The same without parents, for what looks at one file. */
struct disk *disk_open_alone(struct tool *tool, const char *path,
			     bool writable);

/* Ends its use; what was pending is written.  TOOL_OK or TOOL_FAILED. */
int disk_close(struct tool *tool, struct disk *disk);

int disk_read(struct tool *tool, struct disk *disk, void *buffer,
	      uint64_t offset, size_t length);
int disk_map(struct disk *disk, uint64_t offset, uint64_t length,
	     struct extent *_extent);

/* A set, with its catalogue; NULL after a message. */
struct vhdset *set_open(struct tool *tool, TALLOC_CTX *mem_ctx,
			const char *path, bool writable);

/* ---- new_file.c ----------------------------------------------------------------- */

/* A file without a name until it is whole. */
struct new_file {
	const char *path;
	char *temporary;	/* where the file system wants a name */
	int fd;
	struct store *store;
};

/* NULL after a message; nothing may be there yet. */
struct new_file *new_file_open(struct tool *tool, const char *path);

/* Makes it durable and gives it its name.  TOOL_OK or TOOL_FAILED. */
int new_file_finish(struct new_file *file);

/* ---- commands ---------------------------------------------------------------------- */

int command_info(struct tool *tool);
int command_check(struct tool *tool);
int command_create(struct tool *tool);
int command_convert(struct tool *tool);
int command_resize(struct tool *tool);
int command_compact(struct tool *tool);
int command_map(struct tool *tool);
int command_dump_log(struct tool *tool);
int command_snapshot(struct tool *tool);

#endif
