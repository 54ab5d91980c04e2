#!/usr/bin/env python3
"""The packages on a clean Debian with stock Samba, from the first install to
the purge; every step is one test, and needs those before it.
Arguments: port, folder of the packages, folder shared with client.py."""

import glob
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time

PORT, DEBS, SHARED = int(sys.argv[1]), sys.argv[2], sys.argv[3]
CONF = '/etc/samba/smb.conf'
# What apt, dpkg and a running smbd keep for themselves.
THEIRS = re.compile(
    r'/(proc|sys|dev|tmp|hvrs|run|srv)(/|$)|/var/(lib/(dpkg|apt|samba|systemd'
    r')|cache/(apt|man|samba|ldconfig|debconf)|log|backups)(/|$)|/etc/(resolv.'
    r'conf|hosts|ld.so.cache|passwd|shadow|group|gshadow|subuid|subgid)-?$|'
    r'/root/|/etc/\.pwd\.lock|/var/cache$|/var/mail')
OURS = re.compile(
    r'/usr/lib/[^/]+/samba/(vfs/hvrs[^/]*|hvrs(/[^/]+)?)$|/usr/libexec/samba/'
    r'(hvrs-diverted-)?rpcd_fsrvp$|/usr/bin/hvrs[^/]+$|/usr/share/man/man[18]'
    r'/(vfs_)?hvrs[^/]+$|/usr/share/man/man[18]$|/usr/share/(doc|lintian/overr'
    r'ides)/(samba-vfs-hvrs|hvrs-tools)(/.*)?$')
STOCK = '/usr/libexec/samba/rpcd_fsrvp'


def run(*command, status=0):
    done = subprocess.run(command, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120,
                          stdin=subprocess.DEVNULL)
    if status is not None and done.returncode != status:
        raise AssertionError('%s: exit status %d: %s' % (
            ' '.join(command), done.returncode, done.stdout))
    return done.stdout


def must(truth, what):
    if not truth:
        raise AssertionError(what)


def files():
    """{path: what it is} of all that is not other programs' own state."""
    found = {}
    for folder, names, others in os.walk('/'):
        names[:] = [n for n in names
                    if not THEIRS.search(os.path.join(folder, n))]
        for name in names + others:
            path = os.path.join(folder, name)
            if THEIRS.search(path):
                continue
            st = os.lstat(path)
            kind = stat.S_IFMT(st.st_mode)
            what = (st.st_mode, st.st_uid, st.st_gid)
            if kind == stat.S_IFREG:
                with open(path, 'rb') as data:
                    what += (hashlib.sha1(data.read()).hexdigest(),)
            elif kind == stat.S_IFLNK:
                what += (os.readlink(path),)
            found[path] = what
    return found


def differences(before, after):
    return sorted(path for path in before.keys() | after.keys()
                  if before.get(path) != after.get(path))


# ---- the server ------------------------------------------------------------

def smbd_start():
    run('smbd', '--daemon')
    for _ in range(200):
        try:
            socket.create_connection(('127.0.0.1', PORT)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError('smbd does not start')


def reap():
    """As the first process here that is left to this one."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] > 0:
            pass
    except ChildProcessError:
        pass


def smbd_stop():
    with open('/run/samba/smbd.pid') as text:
        os.kill(int(text.read()), 15)
    for _ in range(200):
        reap()
        if run('pgrep', '-x', 'smbd', status=None) == '':
            return
        time.sleep(0.05)
    raise AssertionError('smbd does not end')


def smbclient(command):
    return run('smbclient', '-p', str(PORT), '-U', 'hvrs%hvrs',
               '//127.0.0.1/vm', '-c', command)


def prepare():
    os.makedirs('/srv/vm', exist_ok=True)
    run('mount', '-o', 'loop', SHARED + '/xfs.img', '/srv/vm')
    run('useradd', '--system', '--no-create-home', 'hvrs')
    shutil.chown('/srv/vm', 'hvrs', 'hvrs')
    os.makedirs('/run/samba', exist_ok=True)
    with open(CONF) as text:
        lines = text.read()
    lines = lines.replace('[global]\n', '[global]\n   smb ports = %d\n'
                          '   interfaces = lo\n   bind interfaces only = yes\n'
                          '   disable netbios = yes\n' % PORT, 1)
    with open(CONF, 'w') as out:
        out.write(lines + '\n# machines\n[vm]\n   path = /srv/vm\n'
                  '   read only = no\n')
    done = subprocess.run(['smbpasswd', '-s', '-a', 'hvrs'],
                          input='hvrs\nhvrs\n', text=True)
    must(done.returncode == 0, 'smbpasswd')
    smbd_start()
    smbclient('put /etc/hostname before.txt')
    state['conf'] = open(CONF).read()
    state['before'] = files()


# ---- steps -----------------------------------------------------------------

state = {}


def apt(*arguments, status=0):
    return run('apt-get', '-y', *arguments, status=status)


def debs(folder=DEBS):
    return sorted(glob.glob(folder + '/*.deb'))


def install_changes_nothing_else():
    out = apt('install', *debs())
    must('the module can be loaded' in out, 'no self-test: ' + out)
    after = files()
    changed = differences(state['before'], after)
    strange = [path for path in changed if not OURS.search(path) and
               path not in ('/usr/lib', '/usr/bin')]
    must(not strange, 'outside of its places: %s' % strange)
    must(any(path.endswith('vfs/hvrs.so') for path in changed), changed)
    must(after['/usr/libexec/samba/hvrs-diverted-rpcd_fsrvp'] ==
         state['before'][STOCK], 'the stock rpcd_fsrvp is not kept')
    must(open(CONF).read() == state['conf'], 'smb.conf was changed')


def enabled_and_checked():
    must('no share has hvrs' in run('hvrsctl', 'doctor', status=1),
         'doctor does not see that no share has it')
    run('hvrsctl', 'enable', 'vm')
    run('smbcontrol', 'all', 'reload-config')
    time.sleep(1)
    out = run('hvrs-check', '-p', str(PORT), '-U', 'hvrs%hvrs', '--json',
              '//127.0.0.1/vm')
    verdicts = {one['clause']: one['verdict']
                for one in json.loads(out)['clauses']}
    for clause in ('C0001', 'C0002', 'C0003', 'C0004', 'C0005', 'C0006',
                   'C0007', 'C0008', 'C0009'):
        must(verdicts[clause] == 'pass', '%s: %s' % (clause, out))
    run('hvrsctl', 'doctor')
    told = json.loads(run('hvrsctl', 'status', '--json'))
    must([one['share'] for one in told['shares']] == ['vm'], told)


def progress():
    try:
        with open(SHARED + '/progress') as text:
            return [int(word) for word in text.read().split()]
    except FileNotFoundError:
        return [0, 0]


def wait_for(writes, reconnects):
    for _ in range(600):
        got = progress()
        if got[0] >= writes and got[1] >= reconnects:
            return got
        time.sleep(0.1)
    raise AssertionError('the client does not get on: %s' % progress())


def upgrade_under_a_client():
    open(SHARED + '/go', 'w').close()
    wait_for(200, 0)
    newer = '/tmp/newer'
    os.mkdir(newer)
    for deb in debs():
        tree = newer + '/tree'
        run('dpkg-deb', '-R', deb, tree)
        with open(tree + '/DEBIAN/control') as text:
            control = text.read()
        version = re.search(r'^Version: (.*)$', control, re.M).group(1)
        with open(tree + '/DEBIAN/control', 'w') as out:
            out.write(control.replace(version, version + '.1'))
        run('dpkg-deb', '-b', tree, newer)
        shutil.rmtree(tree)
    apt('install', *debs(newer))
    must(version + '.1' in run('dpkg-query', '-W', 'samba-vfs-hvrs'),
         'not upgraded')
    wait_for(progress()[0] + 100, 0)
    smbd_stop()
    smbd_start()
    wait_for(progress()[0] + 200, 1)
    open(SHARED + '/stop', 'w').close()
    for _ in range(300):
        if os.path.exists(SHARED + '/result'):
            break
        time.sleep(0.1)
    with open(SHARED + '/result') as text:
        told = json.loads(text.read())
    must(told['errors'] == [] and told['reconnects'] >= 1 and
         told['granted'][1] & 2, told)
    print('the client: %s' % told)


def no_other_samba_beside_it():
    tree = '/tmp/samba'
    version = run('dpkg-query', '-W', '-f', '${Version}', 'samba')
    os.makedirs(tree + '/DEBIAN')
    with open(tree + '/DEBIAN/control', 'w') as out:
        out.write('Package: samba\nVersion: %s.99-1\nArchitecture: all\n'
                  'Maintainer: a <a@a.invalid>\nDescription: a newer one\n'
                  % '.'.join(version.split('.')[:2]))
    run('dpkg-deb', '-b', tree, '/tmp/samba.deb')
    must('samba (= %s)' % version in run(
        'dpkg-query', '-W', '-f', '${Depends}', 'samba-vfs-hvrs'), version)
    out = run('apt-get', '-s', '-y', 'install',
              '/tmp/samba.deb', status=None)
    must('samba-vfs-hvrs' in out, out)
    must('Inst samba ' not in out or 'Remv samba-vfs-hvrs' in out, out)


def removal_leaves_the_stock_server():
    run('hvrsctl', 'disable', 'vm')
    must(open(CONF).read() == state['conf'], 'smb.conf is not as it was')
    apt('purge', 'samba-vfs-hvrs', 'hvrs-tools')
    for backup in glob.glob(CONF + '.before-hvrs-*'):
        os.unlink(backup)	# the administrator's
    left = differences(state['before'], files())
    must(not left, 'left behind: %s' % left)
    left = [path for folder in ('/var', '/run', '/etc', '/usr')
            for path in glob.glob(folder + '/**/*hvrs*', recursive=True)
            if '/apt/' not in path and '/log' not in path]
    must(not left, 'left behind: %s' % left)
    smbd_stop()
    smbd_start()
    smbclient('get machine.vhdx /tmp/machine; del machine.vhdx')
    must(os.path.getsize('/tmp/machine') > 0, 'no data')
    smbd_stop()


STEPS = (install_changes_nothing_else, enabled_and_checked,
         upgrade_under_a_client, no_other_samba_beside_it,
         removal_leaves_the_stock_server)


def main():
    passed = 0
    try:
        prepare()
        for step in STEPS:
            begun = time.monotonic()
            step()
            passed += 1
            print('%-36s %.1f s' % (step.__name__.replace('_', ' '),
                                    time.monotonic() - begun), flush=True)
    except Exception as error:
        print('FAILED after %d steps: %s: %s' % (
            passed, type(error).__name__, error))
        print('%d passed, 1 failed, %d skipped' % (
            passed, len(STEPS) - passed - 1))
        return 1
    print('%d passed, 0 failed, 0 skipped' % passed)
    return 0


sys.exit(main())
