/*
 * Order of VFS registration: smbd's own modules first.
 */
#include "register.h"

bool register_builtin_first(void)
{
	struct connection_struct *conn = talloc_zero(NULL,
						     struct connection_struct);
	bool ok = false;

	if (conn == NULL) {
		return false;
	}
	/* Looking up any module does it; the handle goes with the conn. */
	ok = vfs_init_custom(conn, DEFAULT_VFS_MODULE_NAME);
	TALLOC_FREE(conn);
	return ok;
}
