# Build of hvrs, by the waf that comes with Samba's source.  Each room gets only
# the include paths it may use: lib/ sees lib/; samba/ sees Samba besides;
# modules/ and rpc_server/ see samba/ and lib/; tools/ sees lib/.
# "make" calls this inside the lab's root, "make install" on this machine.

import os

APPNAME = 'hvrs'
VERSION = '0.1'

top = '.'
out = os.environ.get('HVRS_OUT', 'build/waf/here')

SERIES = ('4.17', '4.22', '4.24', '4.25')
SUITES = ('check-unit', 'check-fuzz', 'fuzz')
WARNINGS = ('-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes '
            '-Wpointer-arith -Wwrite-strings -Wformat=2 -Werror').split()
# What Samba's own headers do not live up to.
SAMBA_WARNINGS = ('-Wno-unused-parameter -Wno-sign-compare '
                  '-Wno-missing-field-initializers -Wno-shadow '
                  '-Wno-strict-prototypes -Wno-discarded-qualifiers').split()
SANITIZE = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all',
            '-fno-omit-frame-pointer', '-g', '-O1']
# cmocka 2 has other names for what cmocka 1 has one for.
NEW_CMOCKA = ['-Wno-deprecated-declarations']
# What unit tests can make fail, by tests/support/alloc_fail.c.
WRAPPED = ['-Wl,--wrap=' + name for name in (
    'talloc_named_const', '_talloc_zero', '_talloc_array',
    '_talloc_zero_array', '_talloc_realloc_array', 'talloc_strdup',
    '_tevent_create_immediate', '_tevent_req_create',
    '__tevent_req_create')]
FUZZ = ['-fsanitize=fuzzer-no-link,address,undefined',
        '-fno-sanitize-recover=all', '-g', '-O1']


def options(opt):
    opt.load('compiler_c')
    opt.add_option('--samba', default='/usr/src/hvrs-samba',
                   help='folder made by samba/prepare [/usr/src/hvrs-samba]')


def configure(conf):
    conf.load('compiler_c')
    conf.find_program('clang', var='CLANG', mandatory=False)
    conf.find_program('pkgconf', var='PKGCONFIG')
    samba = conf.options.samba
    try:
        version = open(os.path.join(samba, 'version')).read().strip()
    except OSError:
        conf.fatal('%s holds no prepared Samba; run samba/prepare' % samba)
    conf.start_msg('Samba the modules are built for')
    plain = version.split(':')[-1]
    series = '.'.join(plain.split('.')[:2])
    if series not in SERIES:
        conf.end_msg(plain, 'RED')
        conf.fatal('Samba %s is not supported: hvrs is built for %s'
                   % (plain, ', '.join(SERIES)))
    conf.end_msg(plain)
    tree = os.path.join(samba, 'tree')
    conf.env.SAMBA_TREE = tree
    conf.env.INCLUDES_SAMBA = [os.path.join(tree, d) for d in (
        'bin/default/include', 'bin/default', 'bin/default/librpc',
        'bin/default/source3/librpc', 'bin/default/source3', '.', 'source3',
        'source3/include', 'source3/lib', 'include', 'lib', 'lib/replace')]
    conf.env.CFLAGS = ['-std=gnu11', '-g', '-O2', '-D_FILE_OFFSET_BITS=64',
                       '-D_GNU_SOURCE=1', '-fstack-protector-strong',
                       '-DHVRS_VERSION="%s"' % VERSION] + WARNINGS
    conf.env.CFLAGS_SAMBA = ['-D_SAMBA_BUILD_=4', '-DHAVE_CONFIG_H=1',
                             '-D__STDC_WANT_LIB_EXT1__=1',
                             '-DHVRS_SAMBA_SERIES="%s"' % series,
                             '-DHVRS_SAMBA_BUILT="%s"' % plain]
    for lib in ('talloc', 'tevent', 'liburing', 'cmocka', 'popt',
                'jansson', 'libcap', 'nettle', 'tdb'):
        conf.check_cfg(package=lib, args='--cflags --libs',
                       uselib_store=lib.upper())
    # For benchmarks alone; Debian 12 has none.
    conf.check_cfg(package='libsmb2', args='--cflags --libs',
                   uselib_store='LIBSMB2', mandatory=False)
    modules = _modules_dir(conf)
    conf.env.VFSDIR = os.path.join(modules, 'vfs')
    conf.env.HVRSDIR = os.path.join(modules, 'hvrs')
    conf.env.PRIVATEDIR = modules
    conf.env.PRIVATE = _private_name(conf, modules)
    conf.env.LIBEXECDIR = _folder_of(
        conf, 'rpcd_classic', '/usr/libexec/samba', '/usr/lib/samba', modules)


def _modules_dir(conf):
    text = conf.cmd_and_log(['smbd', '-b'], quiet=True)
    for line in text.splitlines():
        if line.strip().startswith('MODULESDIR:'):
            return line.split(':', 1)[1].strip()
    conf.fatal('"smbd -b" does not tell its MODULESDIR')


# What Debian's private libraries end in: libsmbd-base-samba4.so.0 in Debian 12.
def _private_name(conf, folder):
    for name in ('private-samba', 'samba4'):
        if os.path.exists(os.path.join(
                folder, 'libRPC-WORKER-%s.so.0' % name)):
            return name
    conf.fatal('no libRPC-WORKER-*.so.0 of Samba in ' + folder)


def _folder_of(conf, name, *folders):
    for folder in folders:
        if os.path.exists(os.path.join(folder, name)):
            return folder
    conf.fatal('no %s of Samba in %s' % (name, ' or '.join(folders)))


def _folders(bld, room):
    node = bld.path.find_dir(room)
    if node is None:
        return []
    return sorted(n for n in node.listdir()
                  if os.path.isdir(os.path.join(node.abspath(), n)))


def build(bld):
    libs = 'TALLOC TEVENT LIBURING'
    lib_sources = bld.path.ant_glob('lib/**/*.c')
    if lib_sources:
        bld.stlib(target='hvrs_lib', source=lib_sources, includes='lib',
                  cflags=['-fPIC', '-fvisibility=hidden'], use=libs)
    _modules(bld, libs)
    _fsrvp(bld, libs)
    _tools(bld, libs)
    for page in bld.path.ant_glob('docs/man/*.[0-9]'):
        bld.install_files('/usr/share/man/man' + page.name[-1], page)
    if bld.cmd == 'install':
        return
    _bench(bld, libs)
    _unit_tests(bld, libs, lib_sources)
    _fuzz_targets(bld, lib_sources)


def _modules(bld, libs):
    sources = bld.path.ant_glob('modules/*.c samba/*.c')
    if not sources:
        return
    bld.shlib(target='modules/hvrs', source=sources,
              includes='modules samba lib',
              cflags=['-fPIC', '-fvisibility=hidden'] + SAMBA_WARNINGS,
              defines=['HVRS_TUNNEL_DIR="%s"' % _tunnel_dir(bld)],
              linkflags=['-Wl,-z,now', '-Wl,-z,relro', '-Wl,--as-needed'],
              use='hvrs_lib SAMBA ' + libs,
              install_path=None)
    bld.env.cshlib_PATTERN = '%s.so'
    bld.install_as(os.path.join(bld.env.VFSDIR, 'hvrs.so'), 'modules/hvrs.so')
    _tunnels(bld, libs)
    for part in ('hvrs_fsctl', 'hvrs_extents'):
        bld.symlink_as(os.path.join(bld.env.VFSDIR, part + '.so'), 'hvrs.so')


def _fsrvp(bld, libs):
    bld.shlib(target='rpc/fsrvp',
              source=bld.path.ant_glob('rpc_server/fsrvp/*.c',
                                       excl='rpc_server/fsrvp/launcher.c') +
              ['samba/state_snapsets.c', 'samba/state_folder.c',
               'samba/debug.c'],
              includes='rpc_server/fsrvp samba lib',
              cflags=['-fPIC', '-fvisibility=hidden'] + SAMBA_WARNINGS,
              linkflags=['-Wl,-z,now', '-Wl,-z,relro', '-Wl,--as-needed'],
              use='hvrs_lib SAMBA ' + libs, idx=103, install_path=None)
    bld.install_as(os.path.join(bld.env.HVRSDIR, 'fsrvp.so'), 'rpc/fsrvp.so')
    bld.program(target='bin/rpcd_fsrvp',
                source='rpc_server/fsrvp/launcher.c', lib=['dl'],
                cflags=['-DHVRS_LIBDIR="%s"' % bld.env.HVRSDIR,
                        '-DHVRS_PRIVATE_LIBDIR="%s"' % bld.env.PRIVATEDIR,
                        '-DHVRS_PRIVATE_NAME="%s"' % bld.env.PRIVATE],
                install_path=None)
    # Samba starts what is called rpcd_* there; ours takes the stock one's
    # place (a package would divert it).
    bld.install_as(os.path.join(bld.env.LIBEXECDIR, 'rpcd_fsrvp'),
                   'bin/rpcd_fsrvp', chmod=0o755)


def _tunnel_dir(bld):
    return os.path.join(os.path.dirname(bld.env.VFSDIR), 'hvrs')


# Tunnel servers (samba/tunnel.h): objects that the module loads.
def _tunnels(bld, libs):
    for name in ('rsvd', 'sqos'):
        sources = bld.path.ant_glob('rpc_server/%s/*.c' % name)
        if not sources:
            continue
        bld.shlib(target='rpc_server/' + name,
                  source=sources + bld.path.ant_glob(
                      'samba/state_%s.c samba/state_folder.c samba/debug.c '
                      'samba/step.c' % name),
                  includes='rpc_server/%s samba lib' % name,
                  cflags=['-fPIC', '-fvisibility=hidden'] + SAMBA_WARNINGS,
                  linkflags=['-Wl,-z,now', '-Wl,-z,relro',
                             '-Wl,--as-needed'],
                  use='hvrs_lib SAMBA ' + libs,
                  idx={'rsvd': 110, 'sqos': 111}[name], install_path=None)
        bld.install_as(os.path.join(_tunnel_dir(bld), name + '.so'),
                       'rpc_server/%s.so' % name)


def _tools(bld, libs):
    uses = {'hvrs-check': 'NETTLE POPT JANSSON', 'hvrs-vhd': 'POPT JANSSON',
            'hvrsctl': 'JANSSON TDB'}
    for name in _folders(bld, 'tools'):
        sources = bld.path.ant_glob('tools/%s/*.c' % name)
        if sources:
            bld.program(target='bin/' + name,
                        source=sources, includes='lib tools/' + name,
                        use='hvrs_lib %s %s' % (uses.get(name, ''), libs),
                        lib=['pthread', 'dl'], install_path='/usr/bin')


def _bench(bld, libs):
    if bld.env.LIB_LIBSMB2:
        bld.program(target='bin/bench-load',
                    source=bld.path.ant_glob('bench/*.c'), use='LIBSMB2',
                    install_path=None)
    for name in ('vhdx', 'changes'):
        bld.program(target='bin/bench-' + name,
                    source='bench/disk/%s.c' % name, includes='lib',
                    use='hvrs_lib ' + libs, install_path=None)


def _unit_tests(bld, libs, lib_sources):
    tests = bld.path.ant_glob('tests/unit/test_*.c')
    if not tests:
        return
    bld.stlib(target='hvrs_lib_check',
              source=lib_sources + bld.path.ant_glob('tests/support/*.c'),
              includes='lib tests', cflags=SANITIZE, use=libs,
              idx=101, install_path=None)
    for test in tests:
        bld.program(target='unit/' + test.name[:-2], source=[test],
                    includes='lib tests', cflags=SANITIZE + NEW_CMOCKA,
                    linkflags=SANITIZE + WRAPPED, idx=101,
                    use='hvrs_lib_check CMOCKA ' + libs, install_path=None)


def _fuzz_targets(bld, lib_sources):
    tests = bld.path.ant_glob('tests/fuzz/fuzz_*.c')
    if not tests:
        return
    env = bld.env.derive()
    env.CC = env.LINK_CC = bld.env.CLANG
    bld.stlib(target='hvrs_lib_fuzz', env=env,
              source=lib_sources + bld.path.ant_glob('tests/support/*.c'),
              includes='lib tests', cflags=FUZZ, use='TALLOC TEVENT LIBURING',
              idx=102, install_path=None)
    _fuzz_fsrvp(bld, env)
    for test in tests:
        if test.name == 'fuzz_fsrvp.c':
            continue
        bld.program(target='fuzz/' + test.name[:-2], source=[test], env=env,
                    includes='lib tests', cflags=FUZZ,
                    linkflags=['-fsanitize=fuzzer,address,undefined'],
                    idx=102, use='hvrs_lib_fuzz CMOCKA TALLOC TEVENT LIBURING',
                    install_path=None)


# The one that needs Samba's code: between NDR and the state machine.
def _fuzz_fsrvp(bld, env):
    own = ['rpc', 'methods', 'access', 'shares', 'undo']
    bld.program(target='fuzz/fuzz_fsrvp', env=env,
                source=['tests/fuzz/fuzz_fsrvp.c', 'samba/debug.c'] +
                ['rpc_server/fsrvp/%s.c' % name for name in own],
                includes='rpc_server/fsrvp samba lib',
                cflags=FUZZ + SAMBA_WARNINGS + ['-Wno-unknown-warning-option',
                                                  '-Wno-unused-function'],
                linkflags=['-fsanitize=fuzzer,address,undefined',
                           '-Wl,--copy-dt-needed-entries',
                           '-Wl,-rpath,' + env.PRIVATEDIR,
                           '-Wl,-rpath-link,' + env.PRIVATEDIR],
                libpath=[env.PRIVATEDIR],
                lib=[':libsmbd-base-%s.so.0' % env.PRIVATE,
                     ':libdcerpc-server-core.so.0'],
                idx=104, use='hvrs_lib_fuzz SAMBA TALLOC TEVENT LIBURING',
                install_path=None)
