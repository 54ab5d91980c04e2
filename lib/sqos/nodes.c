/*
 * One limit held by the nodes of a cluster together: each is granted a part of
 * it for a few seconds, and no more is granted than there is.  Who wants more
 * gets it when the others have given it back, a second later.
 */
#include <errno.h>
#include <string.h>

#include "sqos/sqos_priv.h"

#define MAGIC	0x4E515348u	/* "HSQN" */

/* How often a node asks anew, and after what silence its part is free. */
#define RENEWED_MS	900
#define LAPSED_MS	3000

/*
 * Who uses so much of its part, or whose requests wait, wants more, and asks
 * for twice as much and a step.  Others keep a little more than they use: too
 * little and they would be taken for such.
 */
#define NEARLY(part)	((part) / 100 * 97)
#define STEP		(SQOS_WHOLE / 8)
#define MORE(part)	((part) + (part) / 24 + SQOS_WHOLE / 200)

static struct sqos_node *find(struct sqos_nodes *nodes, uint32_t number)
{
	size_t i = 0;

	for (i = 0; i < nodes->count; i++) {
		if (nodes->nodes[i].number == number) {
			return &nodes->nodes[i];
		}
	}
	return NULL;
}

/* The clocks of nodes are a second apart at most. */
static void forget(struct sqos_nodes *nodes, uint32_t number, uint64_t now)
{
	size_t i = 0;

	while (i < nodes->count) {
		struct sqos_node *node = &nodes->nodes[i];

		if (node->number != number &&
		    (now > node->seen_ms + LAPSED_MS ||
		     node->seen_ms > now + LAPSED_MS)) {
			*node = nodes->nodes[--nodes->count];
		} else {
			i++;
		}
	}
}

static uint64_t part_used(uint64_t count, uint64_t ms, uint64_t limit)
{
	unsigned __int128 part = (unsigned __int128)count * 1000 * SQOS_WHOLE;

	if (limit == 0) {
		return 0;
	}
	part = part / ms / limit;
	return part < SQOS_WHOLE ? (uint64_t)part : SQOS_WHOLE;
}

/* What the node would use, had it all it wants. */
static uint32_t wanted(const struct sqos_node *node,
		       const struct sqos_used *used, uint64_t ms)
{
	uint64_t io = 0;
	uint64_t kb = 0;
	uint64_t want = 0;

	/* Its counts begin anew where others took their place. */
	if (used->io >= node->io && used->kb >= node->kb) {
		io = part_used(used->io - node->io, ms, used->io_limit);
		kb = part_used(used->kb - node->kb, ms, used->kb_limit);
	}
	want = io > kb ? io : kb;
	if (used->behind || want >= NEARLY(node->part)) {
		want = 2 * (uint64_t)node->part + STEP;
	} else {
		want = MORE(want);
	}
	return want < SQOS_WHOLE ? (uint32_t)want : SQOS_WHOLE;
}

/*
 * The level to which all that is wanted fills the whole, as water does; more
 * than the whole where there is enough for everybody.
 */
static uint64_t water(const struct sqos_nodes *nodes, uint64_t *_spare)
{
	uint64_t left = SQOS_WHOLE;
	uint64_t level = 0;
	size_t rest = nodes->count;
	size_t before = 0;

	*_spare = 0;
	while (rest > 0 && rest != before) {
		size_t i = 0;

		before = rest;
		level = left / rest;
		left = SQOS_WHOLE;
		rest = nodes->count;
		for (i = 0; i < nodes->count; i++) {
			if (nodes->nodes[i].wanted <= level) {
				left -= nodes->nodes[i].wanted;
				rest--;
			}
		}
	}
	if (rest == 0) {
		*_spare = left / nodes->count;
		return SQOS_WHOLE;
	}
	return level;
}

static uint32_t grant(const struct sqos_nodes *nodes,
		      const struct sqos_node *node)
{
	uint64_t spare = 0;
	uint64_t level = water(nodes, &spare);
	uint64_t part = node->wanted < level ? node->wanted + spare : level;
	uint64_t others = 0;
	uint64_t left = 0;
	size_t i = 0;

	for (i = 0; i < nodes->count; i++) {
		others += &nodes->nodes[i] != node ? nodes->nodes[i].part : 0;
	}
	left = others < SQOS_WHOLE ? SQOS_WHOLE - others : 0;
	part = part < left ? part : left;
	return (uint32_t)(part > SQOS_LEAST ? part : SQOS_LEAST);
}

bool sqos_nodes_ask(struct sqos_nodes *nodes, uint32_t number,
		    const struct sqos_used *used, uint64_t now_ms,
		    uint32_t *_part)
{
	struct sqos_node *node = find(nodes, number);
	uint64_t ms = node != NULL && now_ms > node->seen_ms
		? now_ms - node->seen_ms : 0;

	if (node != NULL && ms < RENEWED_MS &&
	    node->seen_ms < now_ms + LAPSED_MS) {
		*_part = node->part;
		return false;
	}
	forget(nodes, number, now_ms);
	node = find(nodes, number);
	if (node == NULL && nodes->count == SQOS_NODES_MAX) {
		*_part = SQOS_LEAST;
		return false;
	}
	if (node == NULL || ms == 0 || ms > LAPSED_MS) {
		if (node == NULL) {
			node = &nodes->nodes[nodes->count++];
		}
		*node = (struct sqos_node) {
			.number = number, .wanted = SQOS_WHOLE,
		};
	} else {
		node->wanted = wanted(node, used, ms);
	}
	node->part = grant(nodes, node);
	node->seen_ms = now_ms;
	node->io = used->io;
	node->kb = used->kb;
	*_part = node->part;
	return true;
}

uint64_t sqos_part(uint64_t limit, uint32_t part)
{
	uint64_t mine = (uint64_t)((unsigned __int128)limit * part /
				   SQOS_WHOLE);

	return limit > 0 && mine == 0 ? 1 : mine;
}

int sqos_nodes_encode(TALLOC_CTX *mem_ctx, const struct sqos_nodes *nodes,
		      uint8_t **_bytes, size_t *_length)
{
	struct cursor_put put = {};
	size_t i = 0;
	int ret = sqos_record_begin(mem_ctx, MAGIC, 4 + 36 * nodes->count,
				    &put);

	if (ret != 0) {
		return ret;
	}
	cursor_put_le32(&put, (uint32_t)nodes->count);
	for (i = 0; i < nodes->count; i++) {
		const struct sqos_node *node = &nodes->nodes[i];

		cursor_put_le32(&put, node->number);
		cursor_put_le32(&put, node->part);
		cursor_put_le32(&put, node->wanted);
		cursor_put_le64(&put, node->seen_ms);
		cursor_put_le64(&put, node->io);
		cursor_put_le64(&put, node->kb);
	}
	return sqos_record_end(&put, _bytes, _length);
}

int sqos_nodes_decode(const uint8_t *bytes, size_t length,
		      struct sqos_nodes *_nodes)
{
	struct cursor in = {};
	uint32_t count = 0;
	uint32_t i = 0;
	int ret = sqos_record_open(bytes, length, MAGIC, &in);

	if (ret != 0) {
		return ret;
	}
	count = cursor_le32(&in);
	if (count > SQOS_NODES_MAX) {
		return -EBADMSG;
	}
	for (i = 0; i < count; i++) {
		struct sqos_node *node = &_nodes->nodes[i];

		node->number = cursor_le32(&in);
		node->part = cursor_le32(&in);
		node->wanted = cursor_le32(&in);
		node->seen_ms = cursor_le64(&in);
		node->io = cursor_le64(&in);
		node->kb = cursor_le64(&in);
		if (node->part > SQOS_WHOLE || node->wanted > SQOS_WHOLE ||
		    node->seen_ms > UINT64_MAX / 2) {
			return -EBADMSG;
		}
	}
	if (cursor_status(&in) != 0 || cursor_remaining(&in) != 0) {
		return -EBADMSG;
	}
	_nodes->count = count;
	return 0;
}

bool sqos_nodes_over(const uint8_t *bytes, size_t length, uint64_t now_ms)
{
	struct sqos_nodes nodes = {};

	if (sqos_nodes_decode(bytes, length, &nodes) != 0) {
		return true;
	}
	forget(&nodes, UINT32_MAX, now_ms);
	return nodes.count == 0;
}
