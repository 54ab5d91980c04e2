/*
 * The names clients send, [MS-FSRVP] 3.1.4: they are only taken apart here;
 * whether a host is this server is compared by the caller with a local list,
 * and never resolved or connected to.
 */
#include <errno.h>
#include <string.h>

#include "snapset/snapset.h"

/*
 * Characters no share is known by, and that mean something to smb.conf
 * (percent), to a path (slash) or to nobody (control characters).
 */
static bool is_name(const char *text, size_t length)
{
	size_t i = 0;

	if (length == 0 || length > SNAPSET_MAX_NAME) {
		return false;
	}
	for (i = 0; i < length; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c < 0x20 || c == 0x7f || strchr("/\\%\"<>|*?[]", c)) {
			return false;
		}
	}
	return memmem(text, length, "..", 2) == NULL;
}

/* Addresses of IPv6 hold colons; brackets are not part of a UNC host. */
int snapset_unc_parse(TALLOC_CTX *mem_ctx, const char *unc, char **_host,
		      char **_share)
{
	const char *host = NULL;
	const char *share = NULL;
	size_t host_length = 0;
	size_t share_length = 0;
	char *new_host = NULL;
	char *new_share = NULL;

	if (unc == NULL || strncmp(unc, "\\\\", 2) != 0) {
		return -EINVAL;
	}
	host = unc + 2;
	host_length = strcspn(host, "\\");
	if (host[host_length] == '\0') {
		return -EINVAL;
	}
	share = host + host_length + 1;
	share_length = strcspn(share, "\\");
	if (strcmp(share + share_length, "") != 0 &&
	    strcmp(share + share_length, "\\") != 0) {
		return -EINVAL;
	}
	if (!is_name(host, host_length) || !is_name(share, share_length)) {
		return -EINVAL;
	}
	new_host = talloc_strndup(mem_ctx, host, host_length);
	new_share = talloc_strndup(mem_ctx, share, share_length);
	if (new_host == NULL || new_share == NULL) {
		talloc_free(new_host);
		talloc_free(new_share);
		return -ENOMEM;
	}
	*_host = new_host;
	*_share = new_share;
	return 0;
}
