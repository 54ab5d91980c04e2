/* A disk of its own from a snapshot, and a set from a disk. */
#include "server.h"

struct convert_state {
	struct rsvd_open *open;
};

static struct tevent_req *not_yet(TALLOC_CTX *mem_ctx, struct rsvd_open *open,
				  NTSTATUS status)
{
	struct convert_state *state = NULL;
	struct tevent_req *req = tevent_req_create(mem_ctx, &state,
						   struct convert_state);

	if (req == NULL) {
		return NULL;
	}
	if (!tevent_req_nterror(req, status)) {
		tevent_req_done(req);
	}
	return tevent_req_post(req, open->ev);
}

struct tevent_req *rsvd_convert_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     const struct rsvd_meta *meta)
{
	(void)meta;
	return not_yet(mem_ctx, open, NT_STATUS_NOT_SUPPORTED);
}

struct tevent_req *rsvd_extract_send(TALLOC_CTX *mem_ctx,
				     struct rsvd_open *open,
				     const struct rsvd_meta *meta)
{
	(void)meta;
	return not_yet(mem_ctx, open, NT_STATUS_NOT_SUPPORTED);
}

struct tevent_req *rsvd_optimize_send(TALLOC_CTX *mem_ctx,
				      struct rsvd_open *open,
				      const struct rsvd_meta *meta)
{
	(void)meta;
	return not_yet(mem_ctx, open, NT_STATUS_OK);
}
