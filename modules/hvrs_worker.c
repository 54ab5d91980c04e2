/*
 * Threads for long jobs, one pool of a single thread for each that runs.
 *
 * smbd's own pool will not do: it wakes an idle thread for a new job without
 * counting that thread as taken, so a READ that comes right after the request
 * for a long job waits in the queue behind it, for as long as that takes.
 */
#include "hvrs.h"

#define WORKERS_MAX 32

struct hvrs_worker {
	struct hvrs_worker *prev, *next;
	struct smbd_server_connection *sconn;
	struct pthreadpool_tevent *pool;
	bool busy;
};

static struct hvrs_worker *all_workers;

static int worker_destructor(struct hvrs_worker *worker)
{
	DLIST_REMOVE(all_workers, worker);
	return 0;
}

static struct hvrs_worker *worker_create(struct smbd_server_connection *sconn)
{
	struct hvrs_worker *worker = talloc_zero(sconn, struct hvrs_worker);

	if (worker == NULL) {
		return NULL;
	}
	worker->sconn = sconn;
	if (pthreadpool_tevent_init(worker, 1, &worker->pool) != 0) {
		TALLOC_FREE(worker);
		return NULL;
	}
	DLIST_ADD_END(all_workers, worker);
	talloc_set_destructor(worker, worker_destructor);
	return worker;
}

struct hvrs_worker *hvrs_worker_take(struct smbd_server_connection *sconn)
{
	struct hvrs_worker *worker = NULL;
	size_t count = 0;

	for (worker = all_workers; worker != NULL; worker = worker->next) {
		if (worker->sconn == sconn && !worker->busy) {
			break;
		}
		count++;
	}
	if (worker == NULL && count < WORKERS_MAX) {
		worker = worker_create(sconn);
	}
	if (worker != NULL) {
		worker->busy = true;
	}
	return worker;
}

void hvrs_worker_release(struct hvrs_worker *worker)
{
	if (worker != NULL) {
		worker->busy = false;
	}
}

struct pthreadpool_tevent *hvrs_worker_pool(struct hvrs_worker *worker,
					    struct smbd_server_connection *sconn)
{
	return worker != NULL ? worker->pool : sconn->pool;
}
