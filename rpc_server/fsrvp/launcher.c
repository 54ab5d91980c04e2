/*
 * rpcd_fsrvp: opens the private libraries of the Samba that is installed and
 * then the server itself, whose undefined symbols they resolve.  So the
 * program is as loadable as the modules, and is tied to no build of Samba.
 */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, const char *argv[])
{
	static const char *const libraries[] = {
		HVRS_PRIVATE_LIBDIR "/libsmbd-base-" HVRS_PRIVATE_NAME ".so.0",
		HVRS_PRIVATE_LIBDIR "/libRPC-WORKER-" HVRS_PRIVATE_NAME ".so.0",
	};
	int (*run)(int, const char **) = NULL;
	void *server = NULL;
	size_t i = 0;

	for (i = 0; i < sizeof(libraries) / sizeof(libraries[0]); i++) {
		if (dlopen(libraries[i], RTLD_NOW | RTLD_GLOBAL) == NULL) {
			fprintf(stderr, "rpcd_fsrvp: hvrs: %s\n", dlerror());
			return 1;
		}
	}
	server = dlopen(HVRS_LIBDIR "/fsrvp.so", RTLD_NOW | RTLD_LOCAL);
	if (server != NULL) {
		*(void **)&run = dlsym(server, "hvrs_fsrvp_main");
	}
	if (run == NULL) {
		fprintf(stderr, "rpcd_fsrvp: hvrs: %s\n", dlerror());
		return 1;
	}
	return run(argc, argv);
}
