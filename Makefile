# A thin door to ./lab and waf.  Everything is compiled inside the lab's root,
# against the Samba it runs; "make install" builds for the Samba of this
# machine instead (it needs that Samba's build dependencies, see README).

LAB_RELEASE ?= trixie
export LAB_RELEASE
LAB_RUN = ./lab run

ifeq ($(HERE),)

all:
	@$(LAB_RUN) /hvrs/tests/lab/build WAFFLAGS=$(WAFFLAGS)

demo check bench fuzz:
	@tests/lab/$@ $(ARGS)

# Debian packages for the Samba of the release, in build/deb/.
deb:
	@$(LAB_RUN) /hvrs/tests/lab/deb $(LAB_RELEASE)
	@ls build/deb/$(LAB_RELEASE)/*.deb

install:
	@$(MAKE) HERE=1 HVRS_OUT=build/waf/here install

else

SAMBA ?= /usr/src/hvrs-samba
HVRS_OUT ?= build/waf/$(LAB_RELEASE)
# waf remembers in it which folder it builds in.
WAFLOCK = .lock-waf-$(subst /,-,$(HVRS_OUT))
export HVRS_OUT WAFLOCK
WAF = python3 $(SAMBA)/tree/buildtools/bin/waf

all: configured
	@$(WAF) build $(WAFFLAGS)

configured:
	@samba/prepare $(SAMBA)
	@cmp -s $(SAMBA)/version $(HVRS_OUT)/samba-version && \
		[ -e $(WAFLOCK) ] && \
		[ $(HVRS_OUT)/samba-version -nt wscript ] || { \
		mkdir -p $(HVRS_OUT) && \
		$(WAF) configure --samba=$(SAMBA) && \
		cp $(SAMBA)/version $(HVRS_OUT)/samba-version; }

# For the Samba of this machine: what fits it after an upgrade within the series.
deb: configured
	@tests/lab/deb here
	@ls build/deb/here/*.deb

install: configured
	@$(WAF) install $(WAFFLAGS) --destdir=$(DESTDIR)

endif

clean:
	rm -rf build/waf

.PHONY: all deb demo check bench fuzz install configured clean
