"""What integration tests share: a private smbd over the lab's disks, a class
to derive tests from, and ways to look at a file from below."""

import ctypes
import errno
import fcntl
import glob
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import smb2

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

DIRECTORIES = {
    'vm': '/srv/xfs/vm', 'vmbtrfs': '/srv/btrfs/vmbtrfs',
    'vmext4': '/srv/ext4/vmext4', 'vmoff': '/srv/xfs/vmoff',
    'plain': '/srv/xfs/plain',
}
# The largest file a file system takes, or what tests make of it.
LARGEST = {'vm': 64 * TIB, 'vmbtrfs': 64 * TIB, 'vmext4': 16 * TIB - 4096}

STATE = '/var/lib/samba'

# What a server's [global] says where it is a member of a domain.
MEMBER = subprocess.run(['/hvrs/tests/lab/domain', 'conf'], text=True,
                        stdout=subprocess.PIPE).stdout.split('\n')[:-1] \
    if os.path.exists('/lab/ad') else []
DOMAIN = 'HVRS' if MEMBER else 'HVRS-LAB'


def run(*command, check=True):
    """Runs a program and returns what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300)
    if check and done.returncode != 0:
        raise AssertionError('%s: %s' % (' '.join(command), done.stdout))
    return done.stdout


# Of the Samba that runs: (4, 22).  What an older one cannot do is in README.md.
SERIES = tuple(int(n) for n in re.search(
    r'(\d+)\.(\d+)', run('smbd', '--version')).groups())


def modules_directory():
    return glob.glob('/usr/lib/*/samba/vfs')[0]


def features():
    return run('hvrsctl', 'options', '--features').split('\n')[:-1]


def options_off():
    return ['hvrs:%s = no' % name for name in features()]


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


# ---- a server ---------------------------------------------------------------

class Server:
    """smbd with a configuration and state of its own, in a temporary
    directory, on a free port.  shares is {name: [option lines]}, or
    {name: (directory, [option lines])} for a directory of another name.  With
    steps it can be told where to die; looking for that takes a while."""

    def __init__(self, shares=None, settings=(), preload=True, steps=True):
        if shares is None:
            shares = {name: ['vfs objects = hvrs']
                      for name in ('vm', 'vmbtrfs', 'vmext4')}
        self.directory = tempfile.mkdtemp(prefix='hvrs-test-')
        # smbd looks into its lock directory as the user it serves.
        os.chmod(self.directory, 0o755)
        # A step may be taken as any user.
        os.mkdir(self.directory + '/die')
        os.chmod(self.directory + '/die', 0o777)
        self.log = self.directory + '/log'
        self.config = self.directory + '/smb.conf'
        self.port = free_port()
        self.shares = shares
        self.settings = list(settings)
        self.preload = preload
        self.environment = dict(os.environ)
        if steps:
            self.environment['HVRS_DIE_AT'] = self.directory + '/die'
        self.process = None
        self._state()
        self.start()

    def _state(self):
        for name in ('private', 'state', 'cache', 'lock', 'pid', 'ncalrpc'):
            os.mkdir('%s/%s' % (self.directory, name), 0o755)
        for name in ('passdb.tdb', 'secrets.tdb'):
            shutil.copy('%s/private/%s' % (STATE, name),
                        self.directory + '/private')
        for name in ('account_policy.tdb', 'group_mapping.tdb',
                     'registry.tdb', 'share_info.tdb'):
            if os.path.exists('%s/%s' % (STATE, name)):
                shutil.copy('%s/%s' % (STATE, name),
                            self.directory + '/state')

    def directory_of(self, share):
        value = self.shares[share]
        return value[0] if isinstance(value, tuple) else DIRECTORIES[share]

    def write_config(self):
        lines = [
            '[global]', 'workgroup = HVRS', 'netbios name = HVRS-LAB',
            'disable netbios = yes', 'interfaces = 127.0.0.1/8',
            'bind interfaces only = yes',
            'smb ports = %d' % self.port, 'load printers = no',
            'printcap name = /dev/null', 'disable spoolss = yes',
            'log file = ' + self.log, 'max log size = 0', 'log level = 1',
            'private dir = %s/private' % self.directory,
            'state directory = %s/state' % self.directory,
            'cache directory = %s/cache' % self.directory,
            'lock directory = %s/lock' % self.directory,
            'pid directory = %s/pid' % self.directory,
            'ncalrpc dir = %s/ncalrpc' % self.directory,
        ]
        lines += MEMBER or ['server role = standalone server']
        if self.preload:
            lines.append('preload modules = %s/hvrs.so' % modules_directory())
        lines += self.settings
        for share, value in self.shares.items():
            options = value[1] if isinstance(value, tuple) else value
            lines += ['[%s]' % share, 'read only = no',
                      'path = ' + self.directory_of(share)] + list(options)
        with open(self.config, 'w') as out:
            out.write('\n'.join(lines) + '\n')

    def start(self):
        self.write_config()
        self.process = subprocess.Popen(
            ['smbd', '--foreground', '--no-process-group',
             '--configfile=' + self.config], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env=self.environment)
        for _ in range(600):
            try:
                socket.create_connection(('127.0.0.1', self.port)).close()
                return
            except ConnectionRefusedError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        raise AssertionError('smbd does not start: ' + self.text())

    def die_at(self, step):
        """The next process that comes by this step (samba/step.h) ends."""
        open('%s/die/%s' % (self.directory, step), 'w').close()

    def has_died(self, step):
        return not os.path.exists('%s/die/%s' % (self.directory, step))

    def children(self):
        """Every process below the main smbd."""
        return descendants(self.process.pid)

    def kill(self):
        """kill -9 of all of it.  The main process is stopped first: when one
        of its helpers dies it starts another, which would live on with the
        listening socket (smbd sets SO_REUSEPORT), take connections meant for
        the next smbd, and reset them at its end."""
        os.kill(self.process.pid, signal.SIGSTOP)
        while state(self.process.pid) not in 'TZ':
            time.sleep(0.001)
        pids = self.children()
        while any(is_running(pid) for pid in pids):
            for pid in pids:
                kill(pid)
            time.sleep(0.001)
            pids += [pid for pid in self.children() if pid not in pids]
        kill(self.process.pid)
        self.process.wait()
        # One that is not quite gone may still hold the port and databases.
        while any(is_running(pid) or threads(pid) > 1 for pid in pids):
            time.sleep(0.01)

    def stop(self):
        children = self.children()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in children:
            kill(pid)
        shutil.rmtree(self.directory, ignore_errors=True)

    def reload(self):
        """smb.conf again, as smbcontrol does it for a live server."""
        self.write_config()
        run('smbcontrol', '--configfile=' + self.config, 'smbd',
            'reload-config')

    def sid(self, user):
        """Of a user, as text."""
        if MEMBER:
            return run('wbinfo', '--name-to-sid', user).split()[0]
        text = run('pdbedit', '-s', self.config, '-v', '-u', user)
        return re.search(r'User SID: +(\S+)', text).group(1)

    def text(self):
        """smbd's log."""
        try:
            with open(self.log, errors='replace') as log:
                return log.read()
        except FileNotFoundError:
            return ''

    def lines(self, pattern):
        return [line.strip() for line in self.text().split('\n')
                if re.search(pattern, line)]

    def alive(self):
        """A new client is served, and no child has crashed."""
        assert self.process.poll() is None, 'smbd has ended'
        client = self.connect(next(iter(self.shares)))
        client.connection.close()
        assert 'INTERNAL ERROR' not in self.text(), self.text()[-4000:]

    def connect(self, share, user='hvrs'):
        """A tree connect of a connection of its own."""
        connection = smb2.Connection(self.port)
        try:
            return smb2.Tree(smb2.Session(connection, user, user), share)
        except BaseException:
            connection.close()
            raise


def umount(path):
    """Tried again while it is busy: what of a server is not its main process'
    child any more (the keeper) ends a moment after it."""
    for _ in range(200):
        if 'busy' not in run('umount', path, check=False):
            return
        time.sleep(0.05)
    raise AssertionError(path + ' stays busy')


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def state(pid):
    """The letter of a process' state, Z where there is none."""
    try:
        with open('/proc/%d/stat' % pid) as stat:
            return stat.read().rsplit(')', 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return 'Z'


def is_running(pid):
    """Whether a process lives; one that only waits to be reaped does not."""
    return state(pid) != 'Z'


def threads(pid):
    """How many threads a process has; the last of them holds its files."""
    try:
        return len(os.listdir('/proc/%d/task' % pid))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descendants(pid):
    """Pids of the processes below one, from /proc."""
    parents = {}
    for path in glob.glob('/proc/[0-9]*/stat'):
        try:
            with open(path) as stat:
                fields = stat.read().rsplit(')', 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(
            int(path.split('/')[2]))
    found, look = [], [pid]
    while look:
        below = parents.get(look.pop(), [])
        found += below
        look += below
    return found


# ---- looking from below -----------------------------------------------------

FIEMAP = 0xC020660B
UNWRITTEN, SHARED, LAST = 0x800, 0x2000, 0x1
PUNCH_HOLE, KEEP_SIZE = 2, 1

libc = ctypes.CDLL(None, use_errno=True)


def extents(path):
    """[(offset, place on disk, length, flags)] of a file, by FIEMAP."""
    found, start = [], 0
    with open(path, 'rb') as file:
        os.fsync(file.fileno())
        while True:
            buffer = bytearray(struct.pack('<QQIIII', start, 2**63, 1, 0,
                                           512, 0) + bytes(512 * 56))
            fcntl.ioctl(file, FIEMAP, buffer)
            (count,) = struct.unpack_from('<I', buffer, 20)
            for i in range(count):
                at = 32 + 56 * i
                offset, physical, length = struct.unpack_from('<QQQ', buffer,
                                                              at)
                (flags,) = struct.unpack_from('<I', buffer, at + 40)
                found.append((offset, physical, length, flags))
            if count == 0 or found[-1][3] & LAST:
                return found
            start = found[-1][0] + found[-1][2]


def mapped(path, offset, length):
    """Bytes of a range that have blocks on disk, unwritten ones included."""
    total = 0
    for start, _, size, _ in extents(path):
        total += max(0, min(start + size, offset + length) -
                     max(start, offset))
    return total


def shared(path, offset, length):
    """Bytes of a range whose blocks are shared with another file."""
    total = 0
    for start, _, size, flags in extents(path):
        if flags & SHARED:
            total += max(0, min(start + size, offset + length) -
                         max(start, offset))
    return total


def place(path, offset):
    """Where on disk a byte is; None in a hole."""
    for start, physical, length, _ in extents(path):
        if start <= offset < start + length:
            return physical + offset - start
    return None


def settle(path):
    """What was written gets its place on disk."""
    with open(path, 'rb') as file:
        os.fsync(file.fileno())


def fill(path):
    """Leaves nothing to allocate on the file system of this file."""
    with open(path, 'wb', buffering=0) as file:
        for size in (MIB, 65536, 4096):
            try:
                while True:
                    os.posix_fallocate(file.fileno(),
                                       os.fstat(file.fileno()).st_size, size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def blocks(path):
    settle(path)
    return os.stat(path).st_blocks * 512


def content(path, offset=0, length=None):
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read(length)


def pattern(length, seed=1):
    """Bytes without a zero among them, different in every 4 KiB."""
    out = []
    for i in range((length + 4095) // 4096):
        word = struct.pack('<I', ((seed * 2654435761 + i * 40503) &
                                  0xFFFFFFFF) | 0x01010101)
        word = bytes(byte or 0xA5 for byte in word)
        out.append(word * 1024)
    return b''.join(out)[:length]


def until(check, seconds=10, pause=0.02):
    """Whether it comes true in that time."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def who_has(path):
    """Pids of the processes that have a file open."""
    try:
        wanted = os.stat(path)
    except FileNotFoundError:
        return set()
    found = set()
    for name in glob.glob('/proc/[0-9]*/fd/*'):
        try:
            stat = os.stat(name)
        except OSError:
            continue
        if (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.add(int(name.split('/')[2]))
    return found


def put(path, offset, data):
    """Writes into a file behind the server's back."""
    with open(path, 'r+b') as file:
        file.seek(offset)
        file.write(data)


class LoopDisk:
    """A small file system of its own, to fill or to freeze."""

    def __init__(self, kind='xfs', size=400 * MIB):
        self.directory = tempfile.mkdtemp(prefix='hvrs-disk-')
        self.image = self.directory + '/image'
        self.mount = self.directory + '/mount'
        os.mkdir(self.mount)
        os.chmod(self.directory, 0o755)
        run('truncate', '-s', str(size), self.image)
        run(*{'xfs': ['mkfs.xfs', '-q', '-m', 'reflink=1'],
              'btrfs': ['mkfs.btrfs', '-q'],
              'ext4': ['mkfs.ext4', '-q']}[kind], self.image)
        run('mount', '-o', 'loop,noatime', self.image, self.mount)
        self.share = self.mount + '/share'
        os.mkdir(self.share)
        shutil.chown(self.share, 'hvrs', 'hvrs')
        self.frozen = False

    def freeze(self):
        run('fsfreeze', '--freeze', self.mount)
        self.frozen = True

    def thaw(self):
        if self.frozen:
            run('fsfreeze', '--unfreeze', self.mount)
            self.frozen = False

    def free(self):
        stat = os.statvfs(self.mount)
        return stat.f_bavail * stat.f_frsize

    def fail(self):
        """As at a power failure: what was not synced is gone."""
        run('xfs_io', '-x', '-c', 'shutdown', self.mount)

    def mount_again(self):
        """Under another device number, as happens when a machine starts."""
        self.unmount()
        spare = self.directory + '/spare'
        run('truncate', '-s', '1M', spare)
        held = run('losetup', '-f', '--show', spare).strip()
        run('mount', '-o', 'loop,noatime', self.image, self.mount)
        run('losetup', '-d', held)

    def unmount(self):
        umount(self.mount)

    def remove(self):
        self.thaw()
        self.unmount()
        shutil.rmtree(self.directory, ignore_errors=True)


# ---- tests ------------------------------------------------------------------

class Case(unittest.TestCase):
    """One share of a server that lasts for the class; each test gets an
    empty directory "t" of its own on it and removes it at its end."""

    share = 'vm'
    shares = None		# of the server; None: the usual ones
    settings = ()
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.server = Server(cls.shares, cls.settings)
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        self.directory = self.server.directory_of(self.share) + '/t'
        shutil.rmtree(self.directory, ignore_errors=True)
        os.mkdir(self.directory)
        shutil.chown(self.directory, 'hvrs', 'hvrs')
        self.addCleanup(shutil.rmtree, self.directory, True)
        self.connections = []
        self.addCleanup(self.hang_up)
        self.tree = self.connect()

    def hang_up(self):
        for connection in self.connections:
            connection.close()

    def connect(self, share=None, user='hvrs'):
        tree = self.server.connect(share or self.share, user)
        self.connections.append(tree.connection)
        return tree

    def path(self, name):
        return '%s/%s' % (self.directory, name)

    def open(self, name='disk.vhdx', data=None, tree=None, **how):
        """Opens t/NAME, with the given content."""
        file = (tree or self.tree).create('t/' + name, **how)
        if data is not None:
            file.write(0, data)
        return file

    def make(self, name='disk.vhdx', data=b'', size=None):
        """Makes t/NAME behind the server's back."""
        with open(self.path(name), 'wb') as out:
            out.write(data)
            if size is not None:
                out.truncate(size)
        shutil.chown(self.path(name), 'hvrs', 'hvrs')
        return self.path(name)

    def expect(self, status, got):
        self.assertEqual(smb2.status_name(status), smb2.status_name(got))

    def expect_fsctl(self, status, file, code, data=b'', max_out=65536):
        """One FSCTL with the status it must have; returns its output."""
        got, out = file.fsctl(code, data, max_out)
        self.expect(status, got)
        return out

    def assert_bytes(self, wanted, got, what='content'):
        """Compares long contents without printing them."""
        if wanted == got:
            return
        at = next((i for i, (a, b) in enumerate(zip(wanted, got)) if a != b),
                  min(len(wanted), len(got)))
        self.fail('%s differs at byte %d: wanted %s, got %s (lengths %d, %d)'
                  % (what, at, wanted[at:at + 8].hex(), got[at:at + 8].hex(),
                     len(wanted), len(got)))


def on_shares(*shares):
    """Makes one test class per share out of one: NameVm, NameVmbtrfs."""
    def make(cls):
        module = sys.modules[cls.__module__]
        for share in shares:
            name = '%s_%s' % (cls.__name__, share)
            made = type(name, (cls,), {'share': share,
                                       '__module__': cls.__module__,
                                       '__doc__': cls.__doc__})
            setattr(module, name, made)
        return None
    return make


def rows(table, check):
    """Makes one test method per row of a table: row 0 is its name, the rest
    the arguments of check(self, ...)."""
    def make(cls):
        for name, *arguments in table:
            def test(self, arguments=arguments):
                check(self, *arguments)
            test.__doc__ = name.replace('_', ' ')
            assert not hasattr(cls, 'test_' + name), name
            setattr(cls, 'test_' + name, test)
        return cls
    return make
