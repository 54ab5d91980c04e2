/*
 * Finds the jump slots of a loaded ELF library and re-points them.  Checks
 * everything before it changes anything.
 */
#include "plt.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PLT_HOOKS_MAX 32

#if defined(__x86_64__)
#define PLT_JUMP_SLOT R_X86_64_JUMP_SLOT
#elif defined(__aarch64__)
#define PLT_JUMP_SLOT R_AARCH64_JUMP_SLOT
#endif

struct plt_library {
	uintptr_t inside;	/* an address inside it, to find it by */
	uintptr_t base;
	uintptr_t text_start, text_end;
	uintptr_t relro_start, relro_end;
	const ElfW(Rela) *slots;
	size_t slot_count;
	const ElfW(Sym) *symbols;
	const char *strings;
	size_t strings_size;
	bool found;
};

/* The dynamic loader has relocated these addresses already on glibc. */
static uintptr_t plt_address(const struct plt_library *library,
			     ElfW(Addr) value)
{
	return value < library->base ? library->base + value : value;
}

static void plt_dynamic(struct plt_library *library, const ElfW(Dyn) *entry)
{
	ElfW(Addr) slots = 0;
	size_t size = 0;
	bool rela = false;

	for (; entry->d_tag != DT_NULL; entry++) {
		switch (entry->d_tag) {
		case DT_JMPREL:
			slots = entry->d_un.d_ptr;
			break;
		case DT_PLTRELSZ:
			size = entry->d_un.d_val;
			break;
		case DT_PLTREL:
			rela = entry->d_un.d_val == DT_RELA;
			break;
		case DT_SYMTAB:
			library->symbols = (const ElfW(Sym) *)
				plt_address(library, entry->d_un.d_ptr);
			break;
		case DT_STRTAB:
			library->strings = (const char *)
				plt_address(library, entry->d_un.d_ptr);
			break;
		case DT_STRSZ:
			library->strings_size = entry->d_un.d_val;
			break;
		}
	}
	if (rela && slots != 0) {
		library->slots = (const ElfW(Rela) *)
			plt_address(library, slots);
		library->slot_count = size / sizeof(ElfW(Rela));
	}
}

static int plt_match(struct dl_phdr_info *info, size_t size, void *private)
{
	struct plt_library *library = private;
	const ElfW(Phdr) *dynamic = NULL;
	size_t i = 0;
	bool inside = false;

	(void)size;
	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + header->p_vaddr;
		uintptr_t end = start + header->p_memsz;

		if (header->p_type == PT_LOAD &&
		    (header->p_flags & PF_X) != 0 &&
		    library->inside >= start && library->inside < end) {
			library->text_start = start;
			library->text_end = end;
			inside = true;
		}
		if (header->p_type == PT_DYNAMIC) {
			dynamic = header;
		}
	}
	if (!inside) {
		return 0;
	}
	library->base = info->dlpi_addr;
	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];

		if (header->p_type == PT_GNU_RELRO) {
			library->relro_start = library->base + header->p_vaddr;
			library->relro_end = library->relro_start +
				header->p_memsz;
		}
	}
	if (dynamic != NULL) {
		plt_dynamic(library, (const ElfW(Dyn) *)
			    (library->base + dynamic->p_vaddr));
	}
	library->found = library->slots != NULL &&
		library->symbols != NULL && library->strings != NULL;
	return 1;
}

static uintptr_t *plt_slot(const struct plt_library *library,
			   const char *symbol)
{
	size_t i = 0;

	for (i = 0; i < library->slot_count; i++) {
		const ElfW(Rela) *slot = &library->slots[i];
		size_t name = 0;

		if (ELF64_R_TYPE(slot->r_info) != PLT_JUMP_SLOT) {
			continue;
		}
		name = library->symbols[ELF64_R_SYM(slot->r_info)].st_name;
		if (name < library->strings_size &&
		    strcmp(library->strings + name, symbol) == 0) {
			return (uintptr_t *)(library->base + slot->r_offset);
		}
	}
	return NULL;
}

/* Makes the page of a slot writable, or read-only again where it was. */
static int plt_protect(const struct plt_library *library, uintptr_t *slot,
		       bool writable)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t start = (uintptr_t)slot & ~(page - 1);

	if ((uintptr_t)slot < library->relro_start ||
	    (uintptr_t)slot >= library->relro_end) {
		return 0;
	}
	return mprotect((void *)start, page,
			writable ? PROT_READ | PROT_WRITE : PROT_READ);
}

int plt_hook_install(const struct plt_hook *hooks, size_t count,
		     const char **why)
{
	struct plt_library library = {};
	uintptr_t *slots[PLT_HOOKS_MAX] = {};
	void *functions[PLT_HOOKS_MAX] = {};
	size_t i = 0;

	if (count == 0 || count > PLT_HOOKS_MAX) {
		*why = "the list of hooks is empty or too long";
		return -ENOENT;
	}
	for (i = 0; i < count; i++) {
		functions[i] = dlsym(RTLD_DEFAULT, hooks[i].symbol);
		if (functions[i] == NULL) {
			*why = hooks[i].symbol;
			return -ENOENT;
		}
	}
	library.inside = (uintptr_t)functions[0];
	dl_iterate_phdr(plt_match, &library);
	if (!library.found) {
		*why = "the library that holds smbd's core has no jump slots";
		return -ENOENT;
	}
	for (i = 0; i < count; i++) {
		uintptr_t at = (uintptr_t)functions[i];

		*why = hooks[i].symbol;
		slots[i] = plt_slot(&library, hooks[i].symbol);
		if (slots[i] == NULL || at < library.text_start ||
		    at >= library.text_end) {
			return -ENOENT;
		}
		/* Bound already, or to be bound at the first call. */
		if (*slots[i] != at && (*slots[i] < library.text_start ||
					*slots[i] >= library.text_end)) {
			return -EBUSY;
		}
	}
	for (i = 0; i < count; i++) {
		if (plt_protect(&library, slots[i], true) != 0) {
			*why = hooks[i].symbol;
			while (i-- > 0) {
				plt_protect(&library, slots[i], false);
			}
			return -EACCES;
		}
	}
	for (i = 0; i < count; i++) {
		*hooks[i].original = functions[i];
		__atomic_store_n(slots[i], (uintptr_t)hooks[i].replacement,
				 __ATOMIC_SEQ_CST);
	}
	for (i = 0; i < count; i++) {
		plt_protect(&library, slots[i], false);
	}
	*why = NULL;
	return 0;
}
