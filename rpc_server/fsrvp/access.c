/* Who may call, and whether the host that a client names is this server. */
#include "fsrvp.h"

/* [MS-FSRVP] 3.1.4: administrators and backup operators. */
static bool is_permitted(const struct auth_session_info *session)
{
	const struct security_token *token = session->security_token;

	return nt_token_check_sid(&global_sid_Builtin_Administrators,
				  token) ||
	       nt_token_check_sid(&global_sid_Builtin_Backup_Operators,
				  token) ||
	       security_token_has_privilege(token, SEC_PRIV_BACKUP) ||
	       session->unix_token->uid == sec_initial_uid();
}

/* [MS-FSRVP] 2.1: at least integrity of every call, by a real mechanism. */
static bool is_protected(struct dcesrv_call_state *dce_call)
{
	enum dcerpc_AuthType type = DCERPC_AUTH_TYPE_NONE;
	enum dcerpc_AuthLevel level = DCERPC_AUTH_LEVEL_NONE;

	dcesrv_call_auth_info(dce_call, &type, &level);
	return (type == DCERPC_AUTH_TYPE_SPNEGO ||
		type == DCERPC_AUTH_TYPE_KRB5 ||
		type == DCERPC_AUTH_TYPE_NTLMSSP) &&
	       level >= DCERPC_AUTH_LEVEL_INTEGRITY;
}

uint32_t fsrvp_access(struct fsrvp_call *call, const char *method)
{
	const struct auth_session_info *session =
		dcesrv_call_session_info(call->dce_call);
	const struct tsocket_address *address =
		dcesrv_connection_get_remote_address(call->dce_call->conn);
	char *text = NULL;
	struct dom_sid_buf sid;

	if (address != NULL && tsocket_address_is_inet(address, "ip")) {
		text = tsocket_address_inet_addr_string(address,
							call->mem_ctx);
	}
	call->client = talloc_asprintf(
		call->mem_ctx, "%s %s", text != NULL ? text : "local",
		dom_sid_str_buf(&session->security_token->sids[0], &sid));
	if (call->client == NULL) {
		return SNAPSET_NO_MEMORY;
	}
	if (!is_permitted(session)) {
		DBG_NOTICE("hvrs: fsrvp: %s: %s (%s) is no administrator or "
			   "backup operator: access denied\n", method,
			   session->unix_info->unix_name, call->client);
		return SNAPSET_ACCESS_DENIED;
	}
	if (call->server->integrity && !is_protected(call->dce_call)) {
		DBG_NOTICE("hvrs: fsrvp: %s: %s (%s) calls without integrity "
			   "of its calls, which [MS-FSRVP] asks for: access "
			   "denied (\"hvrs:rpc integrity = no\" in [global] "
			   "lifts that)\n", method,
			   session->unix_info->unix_name, call->client);
		return SNAPSET_ACCESS_DENIED;
	}
	return SNAPSET_OK;
}

/*
 * By comparison with what this machine is called alone: a name that is
 * resolved, or a host that is connected to, is how clients make a server
 * authenticate to them.
 */
static bool is_our_dns_name(const char *host)
{
	const char **more = lp_additional_dns_hostnames();
	const char *dns = get_mydnsfullname();
	const char *dot = strchr(host, '.');
	char *name = NULL;
	bool ours = dns != NULL && strequal(host, dns);

	/* As it is called in its domain, whatever /etc/hosts says. */
	if (!ours && dot != NULL && lp_realm()[0] != '\0' &&
	    strequal(dot + 1, lp_realm())) {
		name = talloc_strndup(talloc_tos(), host,
				      (size_t)(dot - host));
		ours = name != NULL && is_myname(name);
		TALLOC_FREE(name);
	}
	for (; !ours && more != NULL && *more != NULL; more++) {
		ours = strequal(host, *more);
	}
	return ours;
}

bool fsrvp_is_our_host(const char *host)
{
	struct sockaddr_storage ss = {};

	if (is_ipaddress(host)) {
		return interpret_string_addr(&ss, host, AI_NUMERICHOST) &&
		       (ismyaddr((struct sockaddr *)&ss) ||
			is_loopback_addr((struct sockaddr *)&ss));
	}
	if (is_myname(host) || strequal(host, "localhost")) {
		return true;
	}
	return is_our_dns_name(host);
}
