/*
 * Reservations, one row per clause.  A row is a little play: each line says
 * who does what and how it must end.
 *
 *   A ign S       REGISTER AND IGNORE EXISTING KEY with service action key S
 *   A reg K S     REGISTER with key K
 *   A res T K     RESERVE of type T;  A rel T K  RELEASE;  A clr K  CLEAR
 *   A pre T K S   PREEMPT;  A abt T K S  PREEMPT AND ABORT
 *   A mov K S B   REGISTER AND MOVE to B, keeping the registration
 *   A cmd XX YY   any command by its opcode and byte 4 (or service action)
 *   A att / A det attaches, detaches
 *   power         the disk was detached and comes back
 * and after ":" good, conflict, or a sense code; or, for "state", a text of
 * the state: generation, type, holder, keys.  "A ua" takes one attention.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scsi/scsi_priv.h"

struct row {
	const char *name;
	const char *lines[24];
};

static struct guid nexus_of(char letter)
{
	struct guid g = {};

	memset(g.bytes, letter, sizeof(g.bytes));
	g.bytes[15] = 1;
	return g;
}

static void text_result(const struct scsi_result *r, char *out, size_t size)
{
	if (r->status == SCSI_GOOD) {
		snprintf(out, size, "good");
	} else if (r->status == SCSI_CONFLICT) {
		assert_int_equal(r->sense_length, 0);
		snprintf(out, size, "conflict");
	} else {
		snprintf(out, size, "%06x", scsi_result_sense_get(r));
	}
}

static void text_state(const struct scsi_pr *s, char *out, size_t size)
{
	size_t at = 0;
	size_t i = 0;

	at = (size_t)snprintf(out, size, "gen %u type %u holder %c keys",
			      s->generation, s->type,
			      s->holder.bytes[0] != 0 ?
			      s->holder.bytes[0] : '-');
	for (i = 0; i < s->nexus_count; i++) {
		if (s->nexuses[i].key != 0) {
			at += (size_t)snprintf(out + at, size - at, " %c%llx",
				s->nexuses[i].id.bytes[0],
				(unsigned long long)s->nexuses[i].key);
		}
	}
}

static void do_out(struct scsi_pr *s, char who, unsigned action, unsigned type,
		   uint64_t key, uint64_t action_key, unsigned flags,
		   const char *more, struct scsi_result *r)
{
	static struct scsi_pr_effect effect;
	struct guid nexus = nexus_of(who);
	uint8_t cdb[16] = { 0x5F, (uint8_t)action, (uint8_t)type };
	uint8_t list[48] = {};
	struct scsi_admission a = {};
	struct scsi_pr before = *s;

	cdb[8] = more != NULL ? 48 : 24;
	scsi_put64(list, key);
	scsi_put64(list + 8, action_key);
	list[20] = (uint8_t)flags;
	if (more != NULL) {
		struct guid to = nexus_of(more[0]);

		scsi_put32(list + 20, 24);
		list[17] = (uint8_t)flags;
		list[19] = 1;
		scsi_pr_transport_id(&to, list + 24);
	}
	scsi_pr_admit(s, &nexus, cdb, &a);
	if (!a.go) {
		*r = a.result;
		return;
	}
	scsi_pr_out(s, &nexus, cdb, list, cdb[8], &effect, r);
	if (r->status != SCSI_GOOD) {
		assert_false(effect.changed);
	}
	if (!effect.changed) {
		assert_memory_equal(s, &before, sizeof(before));
	}
}

static void check_stored(const struct scsi_pr *s)
{
	static uint8_t bytes[SCSI_PR_SIZE_MAX];
	static struct scsi_pr back;
	const char *why = NULL;

	assert_int_equal(scsi_pr_validate(s, &why), 0);
	scsi_pr_encode(s, bytes);
	assert_int_equal(scsi_pr_decode(bytes, scsi_pr_size(s), &back, &why),
			 0);
	assert_int_equal(back.generation, s->generation);
	assert_int_equal(back.type, s->type);
	assert_int_equal(back.persist, s->persist);
	assert_int_equal(back.reserved, s->reserved);
	assert_memory_equal(&back.holder, &s->holder, sizeof(s->holder));
	assert_int_equal(back.nexus_count, s->nexus_count);
	assert_memory_equal(back.nexuses, s->nexuses,
			    s->nexus_count * sizeof(s->nexuses[0]));
}

static void play(struct scsi_pr *s, const char *line, char *got, size_t size)
{
	struct scsi_result r = {};
	unsigned long long k = 0;
	unsigned long long sk = 0;
	unsigned type = 0;
	unsigned flags = 0;
	char who = line[0];
	char to[2] = {};
	struct guid nexus = nexus_of(who);

	if (strncmp(line, "state", 5) == 0) {
		text_state(s, got, size);
		return;
	}
	if (strncmp(line, "power", 5) == 0) {
		scsi_pr_power_on(s);
	} else if (sscanf(line + 1, " ign %llx aptpl%n", &sk, &type) == 1 &&
		   type > 0) {
		do_out(s, who, 6, 0, 0, sk, 1, NULL, &r);
	} else if (sscanf(line + 1, " ign %llx", &sk) == 1) {
		do_out(s, who, 6, 0, 0, sk, 0, NULL, &r);
	} else if (sscanf(line + 1, " reg %llx %llx flags %x", &k, &sk,
			  &flags) >= 2) {
		do_out(s, who, 0, 0, k, sk, flags, NULL, &r);
	} else if (sscanf(line + 1, " res %x %llx", &type, &k) == 2) {
		do_out(s, who, 1, type, k, 0, 0, NULL, &r);
	} else if (sscanf(line + 1, " rel %x %llx", &type, &k) == 2) {
		do_out(s, who, 2, type, k, 0, 0, NULL, &r);
	} else if (sscanf(line + 1, " clr %llx", &k) == 1) {
		do_out(s, who, 3, 0, k, 0, 0, NULL, &r);
	} else if (sscanf(line + 1, " pre %x %llx %llx", &type, &k, &sk) == 3) {
		do_out(s, who, 4, type, k, sk, 0, NULL, &r);
	} else if (sscanf(line + 1, " abt %x %llx %llx", &type, &k, &sk) == 3) {
		do_out(s, who, 5, type, k, sk, 0, NULL, &r);
	} else if (sscanf(line + 1, " mov %llx %llx %1s %x", &k, &sk, to,
			  &flags) >= 3) {
		do_out(s, who, 7, 0, k, sk, flags, to, &r);
	} else if (sscanf(line + 1, " act %x %llx %llx", &type, &k, &sk) == 3) {
		do_out(s, who, type, 0, k, sk, 0, NULL, &r);
	} else if (sscanf(line + 1, " cmd %x %x", &type, &flags) >= 1) {
		struct scsi_admission a = {};
		uint8_t cdb[16] = { (uint8_t)type };

		if (type == 0x9E || type == 0xA3 || type == 0x5E) {
			cdb[1] = (uint8_t)flags;
		} else {
			cdb[4] = (uint8_t)flags;
		}
		scsi_pr_admit(s, &nexus, cdb, &a);
		r = a.result;
		if (a.go && (type == 0x16 || type == 0x17 || type == 0x56 ||
			     type == 0x57)) {
			bool changed = false;

			scsi_pr_reserve(s, &nexus, cdb, &changed, &r);
		}
	} else if (strncmp(line + 1, " att", 4) == 0) {
		assert_int_equal(scsi_pr_attach(s, &nexus), 0);
	} else if (strncmp(line + 1, " det", 4) == 0) {
		scsi_pr_detach(s, &nexus);
	} else if (strncmp(line + 1, " ua", 3) == 0) {
		snprintf(got, size, "%06x", scsi_pr_attention(s, &nexus));
		scsi_pr_attention_take(s, &nexus);
		return;
	} else if (strncmp(line, "size", 4) == 0) {
		scsi_pr_attention_all(s, NULL, SCSI_SENSE_CAPACITY_CHANGED);
	} else {
		fail_msg("the line is not understood: %s", line);
	}
	text_result(&r, got, size);
}

/* ---- the clauses -------------------------------------------------------------- */

#define THREE "A att : good", "B att : good", "C att : good"

static const struct row rows[] = {
	/* REGISTER, scsi.md 5.3 */
	{ "register of a stranger wants key zero",
	  { THREE, "A reg 1 2 : conflict", "A reg 0 2 : good",
	    "state : gen 1 type 0 holder - keys A2" } },
	{ "register with key zero of a stranger changes nothing",
	  { THREE, "A reg 0 0 : good", "A ign 0 : good",
	    "state : gen 0 type 0 holder - keys" } },
	{ "register of a registrant wants its key",
	  { THREE, "A reg 0 2 : good", "A reg 0 3 : conflict",
	    "A reg 3 4 : conflict", "A reg 2 4 : good",
	    "state : gen 2 type 0 holder - keys A4" } },
	{ "a new key keeps the reservation",
	  { THREE, "A ign 1 : good", "A res 5 1 : good", "A reg 1 9 : good",
	    "state : gen 2 type 5 holder A keys A9" } },
	{ "register and ignore minds no key and no type",
	  { THREE, "A ign 1 : good", "A ign 2 : good",
	    "state : gen 2 type 0 holder - keys A2" } },
	{ "SPEC_I_PT is refused", { THREE, "A reg 0 1 flags 8 : 052600" } },
	{ "ALL_TG_PT is true of one port", { THREE,
	    "A reg 0 1 flags 4 : good" } },
	{ "an unknown service action is a bad CDB",
	  { THREE, "A act 8 0 1 : 052400", "A act 1f 0 1 : 052400" } },

	/* RESERVE */
	{ "reserve of a stranger is a conflict",
	  { THREE, "A res 5 0 : conflict" } },
	{ "reserve with a wrong key is a conflict",
	  { THREE, "A ign 1 : good", "A res 5 2 : conflict" } },
	{ "reserve twice by the holder is good",
	  { THREE, "A ign 1 : good", "A res 1 1 : good", "A res 1 1 : good",
	    "state : gen 1 type 1 holder A keys A1" } },
	{ "reserve of another type by the holder is a conflict",
	  { THREE, "A ign 1 : good", "A res 1 1 : good",
	    "A res 3 1 : conflict", "A res 11 1 : 052400" } },
	{ "reserve by another registrant is a conflict",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B res 5 2 : conflict" } },
	{ "every registrant holds types 7 and 8",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 7 1 : good",
	    "B res 7 2 : good", "B res 8 2 : conflict",
	    "state : gen 2 type 7 holder - keys A1 B2" } },
	{ "types that do not exist",
	  { THREE, "A ign 1 : good", "A res 0 1 : 052400",
	    "A res 2 1 : 052400", "A res 4 1 : 052400", "A res 9 1 : 052400",
	    "A res f 1 : 052400", "A res 15 1 : 052400" } },

	/* RELEASE */
	{ "release with nothing held is good",
	  { THREE, "A ign 1 : good", "A rel 5 1 : good", "A rel 0 1 : good" } },
	{ "release by stranger is conflict",
	  { THREE, "A ign 1 : good", "A res 5 1 : good",
	    "B rel 5 0 : conflict" } },
	{ "release by a registrant that is not the holder changes nothing",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B rel 5 2 : good", "B rel 3 2 : good",
	    "state : gen 2 type 5 holder A keys A1 B2" } },
	{ "release of another type by the holder",
	  { THREE, "A ign 1 : good", "A res 5 1 : good",
	    "A rel 6 1 : 052604", "A rel 0 1 : 052604",
	    "A rel 15 1 : 052604" } },
	{ "release of type 1 tells nobody",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 1 1 : good",
	    "A rel 1 1 : good", "B ua : 000000", "A ua : 000000",
	    "state : gen 2 type 0 holder - keys A1 B2" } },
	{ "release of type 3 tells nobody",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 3 1 : good",
	    "A rel 3 1 : good", "B ua : 000000" } },
	{ "release of type 5 tells the other registrants",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "A rel 5 1 : good", "B ua : 062a04", "B ua : 000000",
	    "C ua : 000000", "A ua : 000000" } },
	{ "release of type 6 tells the other registrants",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 6 1 : good",
	    "A rel 6 1 : good", "B ua : 062a04" } },
	{ "release of type 7 by any registrant",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 7 1 : good",
	    "B rel 7 2 : good", "A ua : 062a04", "B ua : 000000",
	    "state : gen 2 type 0 holder - keys A1 B2" } },
	{ "release of type 8 by any registrant",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 8 1 : good",
	    "B rel 8 2 : good", "A ua : 062a04" } },

	/* CLEAR */
	{ "clear takes everything and tells the other registrants",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B clr 2 : good", "A ua : 062a03", "B ua : 000000",
	    "C ua : 000000", "state : gen 3 type 0 holder - keys" } },
	{ "clear without a reservation",
	  { THREE, "A ign 1 : good", "A clr 1 : good",
	    "state : gen 2 type 0 holder - keys" } },
	{ "clear by a stranger is a conflict",
	  { THREE, "A ign 1 : good", "B clr 0 : conflict",
	    "A clr 2 : conflict" } },

	/* unregister, 5.4 */
	{ "the holder of type 1 leaves in silence",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 1 1 : good",
	    "A reg 1 0 : good", "B ua : 000000",
	    "state : gen 3 type 0 holder - keys B2" } },
	{ "the holder of type 3 leaves in silence",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 3 1 : good",
	    "A ign 0 : good", "B ua : 000000",
	    "state : gen 3 type 0 holder - keys B2" } },
	{ "the holder of type 5 leaves and the registrants are told",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "A ign 0 : good", "B ua : 062a04", "A ua : 000000",
	    "state : gen 3 type 0 holder - keys B2" } },
	{ "the holder of type 6 leaves and the registrants are told",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 6 1 : good",
	    "A ign 0 : good", "B ua : 062a04" } },
	{ "types 7 and 8 stay until the last registrant leaves",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 7 1 : good",
	    "A ign 0 : good", "state : gen 3 type 7 holder - keys B2",
	    "B ua : 000000", "B ign 0 : good",
	    "state : gen 4 type 0 holder - keys" } },
	{ "another registrant leaves and the reservation stays",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B ign 0 : good", "state : gen 3 type 5 holder A keys A1" } },

	/* PREEMPT, 5.5 */
	{ "preempt with key zero and no reservation",
	  { THREE, "A ign 1 : good", "A pre 5 1 0 : 052600" } },
	{ "preempt with key zero of a held reservation",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B pre 5 2 0 : 052600", "B pre 0 2 0 : 052600" } },
	{ "preempt by a stranger is a conflict",
	  { THREE, "A ign 1 : good", "A res 5 1 : good",
	    "B pre 5 0 1 : conflict" } },
	{ "preempt of a key nobody has is a conflict",
	  { THREE, "A ign 1 : good", "A pre 5 1 9 : conflict",
	    "B ign 2 : good", "B res 5 2 : good", "A pre 5 1 9 : conflict" } },
	{ "preempt of registrations without a reservation",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "C ign 2 : good",
	    "A pre 0 1 2 : good", "B ua : 062a05", "C ua : 062a05",
	    "state : gen 4 type 0 holder - keys A1" } },
	{ "preempt of a registrant that does not hold minds no type",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "C ign 3 : good",
	    "A res 5 1 : good", "B pre f 2 3 : good", "C ua : 062a05",
	    "A ua : 000000", "state : gen 4 type 5 holder A keys A1 B2" } },
	{ "preempt of the own key by one who does not hold",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B pre 5 2 2 : good", "B ua : 000000",
	    "state : gen 3 type 5 holder A keys A1" } },
	{ "preempt of the holder takes the reservation over",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "C ign 3 : good",
	    "A res 5 1 : good", "B pre 5 2 1 : good", "A ua : 062a05",
	    "C ua : 000000", "state : gen 4 type 5 holder B keys B2 C3" } },
	{ "preempt of the holder with another type tells the rest",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "C ign 3 : good",
	    "A res 5 1 : good", "B pre 6 2 1 : good", "A ua : 062a05",
	    "C ua : 062a04", "B ua : 000000",
	    "state : gen 4 type 6 holder B keys B2 C3" } },
	{ "preempt of the holder checks the type",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B pre 2 2 1 : 052400", "B pre 15 2 1 : 052400",
	    "state : gen 2 type 5 holder A keys A1 B2" } },
	{ "preempt takes all that share the holder's key but the caller",
	  { THREE, "A ign 1 : good", "B ign 1 : good", "C ign 1 : good",
	    "A res 1 1 : good", "C pre 3 1 1 : good", "A ua : 062a05",
	    "B ua : 062a05", "C ua : 000000",
	    "state : gen 4 type 3 holder C keys C1" } },
	{ "the holder preempts itself for another type",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "A pre 1 1 1 : good", "B ua : 062a04", "A ua : 000000",
	    "state : gen 3 type 1 holder A keys A1 B2" } },
	{ "preempt with key zero of types 7 and 8 takes all others",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "C ign 3 : good",
	    "A res 7 1 : good", "B pre 5 2 0 : good", "A ua : 062a05",
	    "C ua : 062a05", "state : gen 4 type 5 holder B keys B2" } },
	{ "preempt with key zero of type 8 checks the type",
	  { THREE, "A ign 1 : good", "A res 8 1 : good",
	    "A pre 4 1 0 : 052400", "A pre 8 1 0 : good",
	    "state : gen 2 type 8 holder - keys A1" } },
	{ "preempt with a key of type 7 takes registrations only",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 7 1 : good",
	    "A pre f 1 2 : good", "B ua : 062a05",
	    "state : gen 3 type 7 holder - keys A1" } },
	{ "preempt of the own key of type 7 spares the caller",
	  { THREE, "A ign 1 : good", "B ign 1 : good", "A res 7 1 : good",
	    "A pre 5 1 1 : good", "B ua : 062a05", "A ua : 000000",
	    "state : gen 3 type 7 holder - keys A1" } },
	{ "preempt and abort is a preempt",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B abt 5 2 1 : good", "A ua : 062a05",
	    "state : gen 3 type 5 holder B keys B2" } },

	/* REGISTER AND MOVE */
	{ "move gives the reservation to another initiator",
	  { THREE, "A ign 1 : good", "A res 5 1 : good",
	    "A mov 1 7 B : good", "state : gen 2 type 5 holder B keys A1 B7",
	    "B ua : 000000" } },
	{ "move with UNREG takes the caller's registration",
	  { THREE, "A ign 1 : good", "A res 1 1 : good",
	    "A mov 1 7 B 2 : good", "state : gen 2 type 1 holder B keys B7" } },
	{ "move is the holder's alone",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "B mov 2 7 C : conflict",
	    "A res 5 1 : good", "B mov 2 7 C : conflict",
	    "C mov 0 7 B : conflict" } },
	{ "move is not for all registrants",
	  { THREE, "A ign 1 : good", "A res 7 1 : good",
	    "A mov 1 7 B : conflict" } },
	{ "move wants a known initiator and a key",
	  { THREE, "A ign 1 : good", "A res 5 1 : good",
	    "A mov 1 7 Z : 052600", "A mov 1 0 B : 052600",
	    "A mov 1 7 A : 052600" } },

	/* APTPL and the end of power */
	{ "without APTPL all is forgotten",
	  { THREE, "A ign 1 : good", "A res 5 1 : good", "power : good",
	    "state : gen 0 type 0 holder - keys" } },
	{ "with APTPL registrations and reservation stay",
	  { THREE, "A ign 1 aptpl : good", "A res 5 1 : good",
	    "power : good", "state : gen 0 type 5 holder A keys A1" } },
	{ "the last register decides about APTPL",
	  { THREE, "A ign 1 aptpl : good", "B ign 2 : good",
	    "power : good", "state : gen 0 type 0 holder - keys" } },
	{ "a registration outlives its opens while others are attached",
	  { THREE, "A ign 1 : good", "A res 5 1 : good", "A det : good",
	    "B cmd 2a : conflict", "state : gen 1 type 5 holder A keys A1" } },
	{ "attentions go with the last open",
	  { THREE, "size : good", "A det : good", "A att : good",
	    "A ua : 000000", "B ua : 062a09" } },

	/* attentions, section 1 */
	{ "an attention comes once, before a conflict",
	  { THREE, "A ign 1 : good", "B ign 2 : good", "A res 5 1 : good",
	    "B pre 5 2 1 : good", "A cmd 2a : 062a05",
	    "A cmd 2a : conflict" } },
	{ "attentions come oldest first",
	  { THREE, "B ign 2 : good", "A ign 1 : good", "size : good",
	    "A cmd 0 : 062a09", "A pre 0 1 2 : good", "B cmd 0 : 062a09",
	    "B cmd 0 : 062a05", "B cmd 0 : good" } },
	{ "inquiry and report luns leave attentions alone",
	  { THREE, "size : good", "A cmd 12 : good", "A cmd a0 : good",
	    "A cmd 0 : 062a09" } },
	{ "request sense takes the attention as data",
	  { THREE, "size : good", "A cmd 3 : good", "A cmd 0 : good" } },
	{ "an unknown opcode leaves attentions alone",
	  { THREE, "size : good", "A cmd 83 : 052000", "A cmd 84 : 052000",
	    "A cmd ff : 052000", "A cmd 0 : 062a09" } },
	{ "reservations tell PR commands of attentions too",
	  { THREE, "size : good", "A ign 1 : 062a09", "A ign 1 : good" } },

	/* RESERVE and RELEASE of SPC-2, 5.7 */
	{ "one initiator reserves the disk",
	  { THREE, "A cmd 16 : good", "A cmd 16 : good",
	    "B cmd 16 : conflict", "B cmd 56 : conflict",
	    "B cmd 17 : good", "B cmd 28 : conflict", "B cmd 0 : conflict",
	    "B cmd 1a : conflict", "B cmd 5e : conflict",
	    "B ign 1 : conflict", "A cmd 2a : good", "A cmd 17 : good",
	    "B cmd 28 : good" } },
	{ "what passes a reservation of the old kind",
	  { THREE, "A cmd 16 : good", "B cmd 12 : good", "B cmd a0 : good",
	    "B cmd 3 : good", "B cmd 25 : good", "B cmd 9e 10 : good",
	    "B cmd 1b 1 : good", "B cmd 1b 0 : conflict",
	    "B cmd 1e 0 : good", "B cmd 1e 1 : conflict" } },
	{ "a reservation of the old kind ends with the opens",
	  { THREE, "A cmd 56 : good", "A det : good", "B cmd 2a : good" } },
	{ "registrations make RESERVE a shadow",
	  { THREE, "A ign 1 : good", "A res 5 1 : good", "B ign 2 : good",
	    "A cmd 16 : good", "B cmd 16 : good", "C cmd 16 : conflict",
	    "C cmd 17 : conflict", "B cmd 2a : good" } },
	{ "RESERVE under type 1 is the holder's",
	  { THREE, "A ign 1 : good", "A res 1 1 : good", "B ign 2 : good",
	    "A cmd 16 : good", "B cmd 16 : conflict" } },
};

static void play_row(void **test)
{
	const struct row *row = *test;
	static struct scsi_pr s;
	size_t i = 0;

	memset(&s, 0, sizeof(s));
	for (i = 0; row->lines[i] != NULL; i++) {
		const char *wanted = strstr(row->lines[i], " : ");
		char got[256] = {};

		assert_non_null(wanted);
		play(&s, row->lines[i], got, sizeof(got));
		if (strcmp(got, wanted + 3) != 0) {
			fail_msg("%s: \"%s\" gives %s", row->name,
				 row->lines[i], got);
		}
		check_stored(&s);
	}
}

/* ---- the command conflict table, scsi.md 5.6 -------------------------------------- */

static const struct {
	uint8_t opcode;
	uint8_t more;
	const char *want;	/* WE, EA, registrant, WE-u, EA-u */
} conflicts[] = {
	{ 0x12, 0, "AAAAA" }, { 0xA0, 0, "AAAAA" }, { 0x03, 0, "AAAAA" },
	{ 0x00, 0, "AAAAA" }, { 0x25, 0, "AAAAA" }, { 0x9E, 0x10, "AAAAA" },
	{ 0x5E, 0, "AAAAA" }, { 0x1B, 0x01, "AAAAA" },
	{ 0x1E, 0, "AAAAA" },
	{ 0x08, 0, "ACAAC" }, { 0x28, 0, "ACAAC" }, { 0xA8, 0, "ACAAC" },
	{ 0x88, 0, "ACAAC" }, { 0x2F, 0, "ACAAC" }, { 0xAF, 0, "ACAAC" },
	{ 0x8F, 0, "ACAAC" }, { 0x9E, 0x12, "ACAAC" },
	{ 0x1A, 0, "ACAAC" }, { 0x5A, 0, "ACAAC" }, { 0xA3, 0x0C, "ACAAC" },
	{ 0x0A, 0, "CCACC" }, { 0x2A, 0, "CCACC" }, { 0xAA, 0, "CCACC" },
	{ 0x8A, 0, "CCACC" }, { 0x2E, 0, "CCACC" }, { 0xAE, 0, "CCACC" },
	{ 0x8E, 0, "CCACC" }, { 0x41, 0, "CCACC" }, { 0x93, 0, "CCACC" },
	{ 0x42, 0, "CCACC" }, { 0x35, 0, "CCACC" }, { 0x91, 0, "CCACC" },
	{ 0x89, 0, "CCACC" }, { 0x04, 0, "CCACC" },
	{ 0x15, 0, "CCACC" }, { 0x55, 0, "CCACC" }, { 0x1D, 0, "CCACC" },
	{ 0x1B, 0x00, "CCACC" }, { 0x1B, 0x11, "CCACC" },
	{ 0x1E, 1, "CCACC" },
};

static void check_column(const char *column, unsigned type, char who,
			 size_t at)
{
	static struct scsi_pr s;
	struct scsi_result r = {};
	size_t i = 0;

	memset(&s, 0, sizeof(s));
	do_out(&s, 'A', 6, 0, 0, 1, 0, NULL, &r);
	do_out(&s, 'B', 6, 0, 0, 2, 0, NULL, &r);
	do_out(&s, 'A', 1, type, 1, 0, 0, NULL, &r);
	assert_int_equal(r.status, SCSI_GOOD);
	for (i = 0; i < sizeof(conflicts) / sizeof(conflicts[0]); i++) {
		struct scsi_admission a = {};
		struct guid nexus = nexus_of(who);
		uint8_t cdb[16] = { conflicts[i].opcode };
		bool allowed = who == 'A' || conflicts[i].want[at] == 'A';

		if (cdb[0] == 0x9E || cdb[0] == 0xA3) {
			cdb[1] = conflicts[i].more;
		} else {
			cdb[4] = conflicts[i].more;
		}
		scsi_pr_admit(&s, &nexus, cdb, &a);
		if (a.go != allowed ||
		    (!allowed && a.result.status != SCSI_CONFLICT)) {
			fail_msg("%s: opcode %02x (%02x) by %c under type %u",
				 column, cdb[0], conflicts[i].more, who, type);
		}
	}
}

static void test_commands_conflict_as_the_table_says(void **test)
{
	static const unsigned types[] = { 1, 3, 5, 6, 7, 8 };
	size_t i = 0;

	(void)test;
	for (i = 0; i < 6; i++) {
		check_column("the holder", types[i], 'A', 0);
	}
	check_column("WE, registered", 1, 'B', 0);
	check_column("WE, not registered", 1, 'C', 0);
	check_column("EA, registered", 3, 'B', 1);
	check_column("EA, not registered", 3, 'C', 1);
	for (i = 2; i < 6; i++) {
		check_column("registrant", types[i], 'B', 2);
	}
	check_column("WE-u", 5, 'C', 3);
	check_column("WE-u", 7, 'C', 3);
	check_column("EA-u", 6, 'C', 4);
	check_column("EA-u", 8, 'C', 4);
}

/* ---- parameter lists, tables, bytes ------------------------------------------------ */

static void test_a_list_of_another_length_is_refused(void **test)
{
	static const struct {
		uint8_t action;
		uint32_t said;
		size_t sent;
		enum scsi_sense sense;
	} cases[] = {
		{ 6, 24, 24, SCSI_SENSE_NONE },
		{ 6, 23, 24, SCSI_SENSE_LIST_LENGTH },
		{ 6, 25, 32, SCSI_SENSE_LIST_LENGTH },
		{ 6, 0, 24, SCSI_SENSE_LIST_LENGTH },
		{ 6, 24, 23, SCSI_SENSE_LIST_LENGTH },
		{ 6, 0xFFFFFFFF, 24, SCSI_SENSE_LIST_LENGTH },
		{ 7, 12, 24, SCSI_SENSE_LIST_LENGTH },
	};
	static struct scsi_pr s;
	static struct scsi_pr_effect e;
	struct guid a = nexus_of('A');
	size_t i = 0;

	(void)test;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t cdb[16] = { 0x5F, cases[i].action };
		uint8_t list[32] = { [15] = 1 };
		struct scsi_result r = {};

		scsi_put32(cdb + 5, cases[i].said);
		scsi_pr_out(&s, &a, cdb, list, cases[i].sent, &e, &r);
		assert_int_equal(scsi_result_sense_get(&r), cases[i].sense);
	}
}

static void test_registrations_have_an_end(void **test)
{
	static struct scsi_pr s;
	struct scsi_result r = {};
	static struct scsi_pr_effect e;
	unsigned i = 0;

	(void)test;
	memset(&s, 0, sizeof(s));
	for (i = 0; i <= SCSI_PR_NEXUS_MAX; i++) {
		uint8_t cdb[16] = { 0x5F, 6, [8] = 24 };
		uint8_t list[24] = { [15] = 1 };
		struct guid g = {};

		scsi_put32(g.bytes, i + 1);
		scsi_pr_out(&s, &g, cdb, list, 24, &e, &r);
		assert_int_equal(scsi_result_sense_get(&r),
				 i < SCSI_PR_NEXUS_MAX ?
				 SCSI_SENSE_NONE : SCSI_SENSE_REGISTRATIONS);
	}
	assert_int_equal(scsi_pr_attach(&s, &(struct guid) { { 9, 9 } }),
			 -ENOSPC);
	check_stored(&s);
}

static void test_persistent_reserve_in(void **test)
{
	static struct scsi_pr s;
	struct scsi_result r = {};
	uint8_t data[512] = {};
	uint8_t cdb[16] = { 0x5E, 0, [7] = 2 };
	uint8_t id[24] = {};
	struct guid b = nexus_of('B');

	(void)test;
	memset(&s, 0, sizeof(s));
	do_out(&s, 'A', 6, 0, 0, 0x1122334455667788, 1, NULL, &r);
	do_out(&s, 'B', 6, 0, 0, 0x99, 1, NULL, &r);
	scsi_pr_in(&s, cdb, data, sizeof(data), &r);
	assert_int_equal(r.length, 24);
	assert_memory_equal(data, "\0\0\0\2\0\0\0\x10\x11\x22\x33\x44\x55\x66"
			    "\x77\x88\0\0\0\0\0\0\0\x99", 24);
	cdb[1] = 1;
	scsi_pr_in(&s, cdb, data, sizeof(data), &r);
	assert_int_equal(r.length, 8);
	assert_memory_equal(data, "\0\0\0\2\0\0\0\0", 8);
	do_out(&s, 'B', 1, 6, 0x99, 0, 0, NULL, &r);
	scsi_pr_in(&s, cdb, data, sizeof(data), &r);
	assert_int_equal(r.length, 24);
	assert_memory_equal(data + 4, "\0\0\0\x10\0\0\0\0\0\0\0\x99\0\0\0\0"
			    "\0\6\0\0", 20);
	cdb[1] = 2;
	scsi_pr_in(&s, cdb, data, sizeof(data), &r);
	assert_int_equal(r.length, 8);
	assert_memory_equal(data, "\0\x08\x15\x81\xea\x01\0\0", 8);
	cdb[1] = 3;
	scsi_pr_in(&s, cdb, data, sizeof(data), &r);
	assert_int_equal(r.length, 8 + 96);
	assert_int_equal(scsi_get32(data + 4), 96);
	assert_int_equal(data[8 + 12], 0);
	assert_int_equal(data[8 + 48 + 12], 1);
	assert_int_equal(data[8 + 48 + 13], 6);
	assert_int_equal(scsi_get16(data + 8 + 48 + 18), 1);
	scsi_pr_transport_id(&b, id);
	assert_memory_equal(data + 8 + 48 + 24, id, 24);
	/* Cut to what was allocated; the length inside says all. */
	scsi_put16(cdb + 7, 10);
	scsi_pr_in(&s, cdb, data, sizeof(data), &r);
	assert_int_equal(r.length, 10);
	assert_int_equal(scsi_get32(data + 4), 96);
	cdb[1] = 4;
	scsi_pr_in(&s, cdb, data, sizeof(data), &r);
	assert_int_equal(scsi_result_sense_get(&r), SCSI_SENSE_CDB);
	/* All registrants hold: no key. */
	do_out(&s, 'B', 2, 6, 0x99, 0, 0, NULL, &r);
	scsi_pr_attention_take(&s, &(struct guid) { { 0 } });
	do_out(&s, 'B', 1, 8, 0x99, 0, 0, NULL, &r);
	cdb[1] = 1;
	scsi_put16(cdb + 7, 512);
	scsi_pr_in(&s, cdb, data, sizeof(data), &r);
	assert_memory_equal(data + 8, "\0\0\0\0\0\0\0\0\0\0\0\0\0\x8", 14);
}

static void test_victims_of_an_abort_are_named(void **test)
{
	static struct scsi_pr s;
	static struct scsi_pr_effect e;
	struct scsi_result r = {};
	struct guid b = nexus_of('B');
	struct guid a = nexus_of('A');
	uint8_t cdb[16] = { 0x5F, 5, 5, [8] = 24 };
	uint8_t list[24] = { [7] = 2, [15] = 1 };

	(void)test;
	memset(&s, 0, sizeof(s));
	do_out(&s, 'A', 6, 0, 0, 1, 0, NULL, &r);
	do_out(&s, 'B', 6, 0, 0, 2, 0, NULL, &r);
	do_out(&s, 'A', 1, 5, 1, 0, 0, NULL, &r);
	scsi_pr_out(&s, &b, cdb, list, 24, &e, &r);
	assert_int_equal(r.status, SCSI_GOOD);
	assert_true(e.abort);
	assert_int_equal(e.victim_count, 1);
	assert_true(guid_equal(&e.victims[0], &a));
	assert_false(scsi_pr_allows(&s, &a, SCSI_ACCESS_WRITE));
	assert_true(scsi_pr_allows(&s, &a, SCSI_ACCESS_READ));
}

static void test_foreign_bytes_are_no_state(void **test)
{
	static struct scsi_pr s;
	static struct scsi_pr back;
	static uint8_t bytes[SCSI_PR_SIZE_MAX];
	struct scsi_result r = {};
	const char *why = NULL;
	size_t size = 0;

	(void)test;
	memset(&s, 0, sizeof(s));
	do_out(&s, 'A', 6, 0, 0, 1, 0, NULL, &r);
	do_out(&s, 'A', 1, 5, 1, 0, 0, NULL, &r);
	size = scsi_pr_size(&s);
	scsi_pr_encode(&s, bytes);
	assert_int_equal(scsi_pr_decode(bytes, size - 1, &back, &why),
			 -EINVAL);
	assert_int_equal(scsi_pr_decode(bytes, 3, &back, &why), -EINVAL);
	bytes[4] = 2;
	assert_int_equal(scsi_pr_decode(bytes, size, &back, &why),
			 -EPROTONOSUPPORT);
	bytes[4] = 1;
	bytes[12] = 2;
	assert_int_equal(scsi_pr_decode(bytes, size, &back, &why), 0);
	assert_int_equal(scsi_pr_validate(&back, &why), -EINVAL);
	bytes[12] = 5;
	bytes[SCSI_PR_HEAD_SIZE] ^= 1;
	assert_int_equal(scsi_pr_decode(bytes, size, &back, &why), 0);
	assert_int_equal(scsi_pr_validate(&back, &why), -EINVAL);
}

int main(void)
{
	size_t count = sizeof(rows) / sizeof(rows[0]);
	struct CMUnitTest tests[sizeof(rows) / sizeof(rows[0])];
	static const struct CMUnitTest others[] = {
		cmocka_unit_test(test_commands_conflict_as_the_table_says),
		cmocka_unit_test(test_a_list_of_another_length_is_refused),
		cmocka_unit_test(test_registrations_have_an_end),
		cmocka_unit_test(test_persistent_reserve_in),
		cmocka_unit_test(test_victims_of_an_abort_are_named),
		cmocka_unit_test(test_foreign_bytes_are_no_state),
	};
	union {
		const struct row *from;
		void *to;
	} both = {};
	size_t i = 0;
	int failed = 0;

	for (i = 0; i < count; i++) {
		both.from = &rows[i];
		tests[i] = (struct CMUnitTest) {
			.name = rows[i].name, .test_func = play_row,
			.initial_state = both.to,
		};
	}
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	return failed + cmocka_run_group_tests(others, NULL, NULL);
}
