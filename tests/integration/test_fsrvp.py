"""Remote VSS, [MS-FSRVP]: the cycles of the Microsoft tests with the content
of the snapshots, every rule of the state machine, and who may do it."""

import glob
import os
import re
import shutil
import struct
import subprocess
import threading
import unittest
import uuid

import fsrvp
import lab
import smb2
from fsrvp import OK, unc

AUTO_RECOVERY = 0x00400000

SETTINGS = ['registry shares = yes', 'hvrs:rpc integrity = no']


def snapshots(directory):
    """What lies in the folder of snapshots."""
    return sorted(os.listdir(directory + '/.snapshots')) \
        if os.path.isdir(directory + '/.snapshots') else []


class FsrvpCase(unittest.TestCase):
    """A server with shares of its own directories; everything that is left
    of a snapshot after a test fails it."""

    shares = ('vm', 'vmbtrfs')
    settings = SETTINGS
    options = ['vfs objects = hvrs']
    client_kind = fsrvp.PipeClient
    base = {'vm': '/srv/xfs/', 'vmbtrfs': '/srv/btrfs/',
            'vmext4': '/srv/ext4/', 'other': '/srv/xfs/'}

    def setUp(self):
        self.directories = {}
        shares = {}
        for share in self.shares:
            path = self.base[share] + 'fsrvp-' + share
            self.remove(path)
            if path.startswith('/srv/btrfs/'):
                lab.run('btrfs', '-q', 'subvolume', 'create', path)
            else:
                os.mkdir(path)
            shutil.chown(path, 'hvrs', 'hvrs')
            os.chmod(path, 0o777)
            self.addCleanup(self.remove, path)
            self.directories[share] = path
            shares[share] = (path, self.options)
        self.server = lab.Server(shares, self.settings)
        self.addCleanup(self.stop)
        self.before = self.exposed_shares()
        self.client = self.new_client()

    def stop(self):
        self.server.stop()

    def remove(self, path):
        for snapshot in glob.glob(path + '/.snapshots/*'):
            subprocess.run(['btrfs', '-q', 'subvolume', 'delete', snapshot],
                           stderr=subprocess.DEVNULL)
        subprocess.run(['btrfs', '-q', 'subvolume', 'delete', path],
                       stderr=subprocess.DEVNULL)
        shutil.rmtree(path, ignore_errors=True)

    def new_client(self, user='hvrsadmin'):
        client = self.client_kind(self.server, user)
        self.addCleanup(client.close)
        return client

    def connect(self, share, user='hvrs'):
        tree = self.server.connect(share, user)
        self.addCleanup(tree.connection.close)
        return tree

    def exposed_shares(self):
        out = lab.run('net', '--configfile=' + self.server.config, 'conf',
                      'listshares')
        return [name for name in out.split('\n') if '@{' in name]

    def expect(self, wanted, got):
        self.assertEqual('0x%08x' % wanted, '0x%08x' % got)

    def assert_nothing_left(self):
        for directory in self.directories.values():
            self.assertEqual([], snapshots(directory))
        self.assertEqual(self.before, self.exposed_shares())
        self.assertIn('"sets": []', self.hvrsctl())

    def hvrsctl(self):
        return lab.run('env', 'SMB_CONF_PATH=' + self.server.config,
                       'hvrsctl', 'snapshots', '--json')

    def put(self, share, name, data):
        tree = self.connect(share)
        file = tree.create(name)
        file.write(0, data)
        file.close()

    def begin(self, *shares, context=AUTO_RECOVERY):
        """To Added: the set and its copies."""
        client = self.client
        self.expect(OK, client.set_context(context))
        result, set_id = client.start()
        self.expect(OK, result)
        copies = []
        for share in shares:
            result, copy = client.add(set_id, unc(share))
            self.expect(OK, result)
            copies.append(copy)
        return set_id, copies

    def take(self, *shares, context=AUTO_RECOVERY):
        """To Exposed: the set, its copies and the names of their shares."""
        set_id, copies = self.begin(*shares, context=context)
        self.expect(OK, self.client.prepare(set_id))
        self.expect(OK, self.client.commit(set_id))
        self.expect(OK, self.client.expose(set_id))
        names = []
        for share, copy in zip(shares, copies):
            result, found = self.client.mapping(copy, set_id, unc(share))
            self.expect(OK, result)
            self.assertEqual(set_id, found['set'])
            self.assertEqual(copy, found['copy'])
            self.assertEqual(('%s@{%s}' % (share, copy)).lower(),
                             found['exposed'].lower())
            self.assertEqual(unc(share), found['share'])
            self.assertGreater(found['time'], 132000000000000000)
            names.append(found['exposed'])
        return set_id, copies, names


class BySamba(FsrvpCase):
    """Through Samba's RPC client library."""

    client_kind = fsrvp.SambaClient


# The cycles of the Microsoft tests, [MS-FSRVP] test suite: context, writable.
CYCLES = [
    ('writable_snapshot', 0x00400000, True),
    ('readonly_backup', 0x00000002, False),
    ('readonly_app_rollback', 0x0000000B, False),
    ('readonly_nas_rollback', 0x00000019, False),
    ('readonly_file_share_backup', 0x00000010, False),
    ('backup_alone', 0x00000000, False),
    ('file_share_backup_no_recovery', 0x00000012, False),
    ('file_share_backup_recovery', 0x00400010, True),
    ('app_rollback_alone', 0x00000009, False),
    ('app_rollback_recovery', 0x00400009, True),
    ('nas_rollback_no_recovery', 0x0000001B, False),
    ('nas_rollback_recovery', 0x00400019, True),
    ('attribute_file_share', 0x04400000, True),
]


class Cycle:
    """Each Microsoft test: the whole way, with content."""

    def cycle(self, context, writable):
        share = self.share
        old, new = lab.pattern(200000, 1), lab.pattern(200000, 2)
        self.put(share, 'disk.vhdx', old)
        supported = self.client.is_path_supported(unc(share))
        self.assertEqual((OK, 1), supported[:2])
        self.assertTrue(supported[2])
        self.assertEqual((1, 1, OK), self.client.version())
        self.assertEqual((OK, 0, 0),
                         self.client.is_path_shadow_copied(unc(share)))
        set_id, (copy,), (name,) = self.take(share, context=context)
        self.put(share, 'disk.vhdx', new)
        tree = self.connect(name)
        file = tree.create('disk.vhdx', access=smb2.READ_ONLY,
                           disposition=smb2.OPEN)
        self.assertEqual(old, file.read(0, len(old)))
        file.close()
        if writable:
            file = tree.create('disk.vhdx')
            file.write(100, b'recovered')
            file.close()
        else:
            with self.assertRaises(smb2.StatusError):
                tree.create('new', disposition=smb2.CREATE_NEW)
            with self.assertRaises(smb2.StatusError):
                tree.create('disk.vhdx', disposition=smb2.OPEN)
        self.expect(OK, self.client.recovery_complete(set_id))
        tree = self.connect(name)
        for how in ({'disposition': smb2.CREATE_NEW, 'name': 'new'},
                    {'disposition': smb2.OPEN, 'name': 'disk.vhdx'}):
            with self.assertRaises(smb2.StatusError):
                tree.create(**how)
        file = tree.create('disk.vhdx', access=smb2.READ_ONLY,
                           disposition=smb2.OPEN)
        wanted = old[:100] + b'recovered' + old[109:] if writable else old
        self.assertEqual(wanted, file.read(0, len(old)))
        base = self.connect(share).create('disk.vhdx',
                                          disposition=smb2.OPEN)
        self.assertEqual(new, base.read(0, len(new)))
        base.close()
        result, present, compatibility = \
            self.client.is_path_shadow_copied(unc(share))
        self.assertEqual((OK, 1), (result, present))
        self.assertIn(compatibility, range(4))
        self.expect(OK, self.client.delete(set_id, copy, unc(share)))
        self.assertEqual((OK, 0, 0),
                         self.client.is_path_shadow_copied(unc(share)))
        self.assert_nothing_left()


@lab.rows(CYCLES, Cycle.cycle)
class CycleClone(Cycle, BySamba):
    share = 'vm'
    shares = ('vm',)


@lab.rows(CYCLES[:5], Cycle.cycle)
class CycleBtrfs(Cycle, BySamba):
    share = 'vmbtrfs'
    shares = ('vmbtrfs',)

    def test_the_provider_is_that_of_the_file_system(self):
        """Not clones, which every reflink file system could do."""
        self.begin('vmbtrfs')
        self.assertIn('"provider": "btrfs"', self.hvrsctl())


class Rules(BySamba):
    """The table of states, one test a clause."""

    shares = ('vm',)

    def all_with_unknown_id(self):
        client, unknown = self.client, uuid.uuid4()
        return {
            'add': client.add(unknown, unc('vm'))[0],
            'prepare': client.prepare(unknown),
            'commit': client.commit(unknown),
            'expose': client.expose(unknown),
            'mapping': client.mapping(uuid.uuid4(), unknown, unc('vm'))[0],
            'recovery': client.recovery_complete(unknown),
            'abort': client.abort(unknown),
        }

    def test_unknown_set_is_id_mismatch(self):
        for method, result in self.all_with_unknown_id().items():
            with self.subTest(method):
                self.expect(fsrvp.ID_MISMATCH, result)
        self.expect(fsrvp.OBJECT_NOT_FOUND, self.client.delete(
            uuid.uuid4(), uuid.uuid4(), unc('vm')))

    def test_null_ids_are_invalid(self):
        self.client.set_context(0)
        self.expect(fsrvp.INVALID_ARGUMENT, self.client.start(fsrvp.NULL)[0])
        self.expect(fsrvp.INVALID_ARGUMENT, self.client.abort(fsrvp.NULL))
        self.expect(fsrvp.INVALID_ARGUMENT, self.client.delete(
            fsrvp.NULL, uuid.uuid4(), unc('vm')))
        self.expect(fsrvp.INVALID_ARGUMENT, self.client.delete(
            uuid.uuid4(), fsrvp.NULL, unc('vm')))

    def test_contexts_that_are_none(self):
        for context in (0x00400002, 1, 8, 0x18, 0x20, 0x11, 0xFFFFFFFF,
                        0x00400001, 0x80000000):
            self.expect(fsrvp.UNSUPPORTED_CONTEXT,
                        self.client.set_context(context))
        self.expect(fsrvp.BAD_STATE, self.client.start()[0])

    def test_start_needs_a_context(self):
        self.expect(fsrvp.BAD_STATE, self.client.start()[0])

    def test_one_unfinished_set_at_a_time(self):
        self.begin('vm')
        self.expect(fsrvp.IN_PROGRESS, self.client.start()[0])

    def test_started_set(self):
        set_id, _ = self.begin()
        client = self.client
        for result in (client.prepare(set_id), client.commit(set_id),
                       client.expose(set_id),
                       client.recovery_complete(set_id),
                       client.mapping(uuid.uuid4(), set_id, unc('vm'))[0],
                       client.delete(set_id, uuid.uuid4(), unc('vm'))):
            self.expect(fsrvp.BAD_STATE, result)
        self.expect(OK, client.abort(set_id))
        self.expect(fsrvp.ID_MISMATCH, client.add(set_id, unc('vm'))[0])
        self.assert_nothing_left()

    def test_added_set(self):
        set_id, (copy,) = self.begin('vm')
        client = self.client
        for result in (client.expose(set_id),
                       client.recovery_complete(set_id),
                       client.mapping(copy, set_id, unc('vm'))[0],
                       client.delete(set_id, copy, unc('vm'))):
            self.expect(fsrvp.BAD_STATE, result)
        result, again = client.add(set_id, unc('VM', end='\\'))
        self.expect(fsrvp.ALREADY_EXISTS, result)
        self.assertEqual(fsrvp.NULL, again)
        self.expect(OK, client.abort(set_id))
        self.assert_nothing_left()

    def test_commit_without_prepare(self):
        set_id, _ = self.begin('vm')
        self.expect(OK, self.client.commit(set_id))
        self.assertEqual(1, len(snapshots(self.directories['vm'])))
        self.expect(OK, self.client.abort(set_id))
        self.assert_nothing_left()

    def test_committed_set(self):
        set_id, (copy,) = self.begin('vm')
        client = self.client
        self.expect(OK, client.commit(set_id))
        for result in (client.add(set_id, unc('vm'))[0],
                       client.prepare(set_id), client.commit(set_id),
                       client.recovery_complete(set_id),
                       client.mapping(copy, set_id, unc('vm'))[0],
                       client.delete(set_id, copy, unc('vm'))):
            self.expect(fsrvp.BAD_STATE, result)
        self.assertEqual((OK, 1), client.is_path_shadow_copied(
            unc('vm'))[:2])
        self.expect(OK, client.abort(set_id))
        self.assert_nothing_left()

    def test_exposed_set(self):
        set_id, (copy,), _ = self.take('vm')
        client = self.client
        for result in (client.add(set_id, unc('vm'))[0],
                       client.prepare(set_id), client.commit(set_id),
                       client.expose(set_id)):
            self.expect(fsrvp.BAD_STATE, result)
        unknown = uuid.uuid4()
        self.expect(fsrvp.INVALID_ARGUMENT,
                    client.mapping(unknown, set_id, unc('vm'))[0])
        self.expect(fsrvp.INVALID_ARGUMENT,
                    client.mapping(copy, set_id, unc('vm'), level=2)[0])
        self.expect(fsrvp.OBJECT_NOT_FOUND,
                    client.delete(set_id, unknown, unc('vm')))
        self.expect(OK, client.abort(set_id))
        self.assert_nothing_left()

    def test_abort_of_a_recovered_set(self):
        set_id, (copy,), _ = self.take('vm')
        self.expect(OK, self.client.recovery_complete(set_id))
        self.expect(fsrvp.BAD_STATE, self.client.abort(set_id))
        self.assertEqual((OK, 1), self.client.is_path_shadow_copied(
            unc('vm'))[:2])
        self.expect(OK, self.client.mapping(copy, set_id, unc('vm'))[0])
        self.expect(OK, self.client.delete(set_id, copy, unc('vm')))
        self.assert_nothing_left()

    def test_set_context_again_drops_what_was_begun(self):
        set_id, _, _ = self.take('vm')
        self.expect(OK, self.client.set_context(0))
        self.expect(fsrvp.ID_MISMATCH, self.client.abort(set_id))
        self.assert_nothing_left()

    def test_seventh_set_context_is_refused(self):
        results = [self.client.set_context(0) for _ in range(8)]
        self.assertEqual([OK] * 6 + [fsrvp.IN_PROGRESS, OK], results)

    def test_unknown_share_and_host(self):
        client = self.client
        for name, wanted in (
                (unc('nowhere'), fsrvp.OBJECT_NOT_FOUND),
                (unc('IPC$'), fsrvp.OBJECT_NOT_FOUND),
                (unc('vm', host='192.0.2.1'), fsrvp.INVALID_ARGUMENT),
                (unc('vm', host='attacker.example'),
                 fsrvp.INVALID_ARGUMENT),
                (unc('vm', end='\\deeper'), fsrvp.INVALID_ARGUMENT),
                (unc('..'), fsrvp.INVALID_ARGUMENT),
                (unc('vm%U'), fsrvp.INVALID_ARGUMENT),
                (unc('v\x01m'), fsrvp.INVALID_ARGUMENT),
                ('vm', fsrvp.INVALID_ARGUMENT),
                ('', fsrvp.INVALID_ARGUMENT),
                ('\\\\\\vm', fsrvp.INVALID_ARGUMENT),
                ('\\\\127.0.0.1\\', fsrvp.INVALID_ARGUMENT),
                (unc('x' * 1500), fsrvp.INVALID_ARGUMENT)):
            with self.subTest(name[:40]):
                self.expect(wanted, client.is_path_supported(name)[0])
                self.expect(wanted, client.is_path_shadow_copied(name)[0])
        for host in ('HVRS-LAB', 'hvrs-lab', 'localhost', '127.0.0.1'):
            self.expect(OK, client.is_path_supported(unc('vm', host))[0])

    def test_two_clients(self):
        """Another user is another client."""
        lab.run('net', '--configfile=' + self.server.config, 'sam',
                'addmem', 'BUILTIN\\Administrators', lab.DOMAIN + '\\other')
        self.client.close()
        set_id, _ = self.begin_as('hvrsadmin')
        second = self.new_client('other')
        self.expect(fsrvp.IN_PROGRESS, second.set_context(0))
        self.expect(fsrvp.IN_PROGRESS, second.start()[0])
        self.expect(OK, second.abort(set_id))
        self.expect(OK, second.set_context(0))

    def begin_as(self, user):
        self.client = self.new_client(user)
        return self.begin('vm')

    def test_sets_outlive_their_connection(self):
        set_id, (copy,) = self.begin('vm')
        self.client.close()
        self.client = self.new_client()
        self.expect(OK, self.client.commit(set_id))
        self.client.close()
        self.client = self.new_client()
        self.expect(OK, self.client.expose(set_id))
        self.expect(OK, self.client.mapping(copy, set_id, unc('vm'))[0])
        self.expect(OK, self.client.abort(set_id))
        self.assert_nothing_left()


class Access(BySamba):
    shares = ('vm',)

    def test_an_ordinary_user_is_denied_everything(self):
        client, some = self.new_client('hvrs'), uuid.uuid4()
        for result in (client.version()[2], client.set_context(0),
                       client.start()[0], client.add(some, unc('vm'))[0],
                       client.prepare(some), client.commit(some),
                       client.expose(some), client.recovery_complete(some),
                       client.abort(some),
                       client.is_path_supported(unc('vm'))[0],
                       client.is_path_shadow_copied(unc('vm'))[0],
                       client.mapping(some, some, unc('vm'))[0],
                       client.delete(some, some, unc('vm'))):
            self.expect(fsrvp.ACCESS_DENIED, result)

    def test_clients_do_not_reach_the_folder_of_snapshots(self):
        set_id, _, _ = self.take('vm')
        tree = self.connect('vm')
        root = tree.create('', access=smb2.READ_ONLY, disposition=smb2.OPEN,
                           options=smb2.DIRECTORY)
        self.assertNotIn('.snapshots', root.list())
        with self.assertRaises(smb2.StatusError):
            tree.create('.snapshots', access=smb2.READ_ONLY,
                        disposition=smb2.OPEN, options=smb2.DIRECTORY)
        self.expect(OK, self.client.abort(set_id))

    def test_a_folder_that_is_not_roots_is_refused(self):
        path = self.directories['vm'] + '/.snapshots'
        os.symlink('/etc', path)
        set_id, _ = self.begin('vm')
        self.assertNotEqual(OK, self.client.commit(set_id))
        self.assertEqual(['.snapshots'], os.listdir(self.directories['vm']))
        os.unlink(path)
        os.mkdir(path)
        shutil.chown(path, 'hvrs', 'hvrs')
        self.assertNotEqual(OK, self.client.commit(set_id))
        self.assertEqual([], os.listdir(path))
        os.rmdir(path)
        self.expect(OK, self.client.commit(set_id))
        self.expect(OK, self.client.abort(set_id))
        self.assert_nothing_left()


class Integrity(FsrvpCase):
    shares = ('vm',)
    settings = ['registry shares = yes']

    def test_unsigned_calls_are_denied(self):
        self.expect(fsrvp.ACCESS_DENIED, self.client.version()[2])

    def test_signed_calls_are_served(self):
        for protection in ('sign', 'seal'):
            out = lab.run('rpcclient', '-p', str(self.server.port), '-U',
                          'hvrsadmin%hvrsadmin',
                          'ncacn_np:127.0.0.1[%s]' % protection, '-c',
                          'fss_create_expose backup ro vm')
            self.assertIn('exposed as a snapshot of', out)


class SambasClient(FsrvpCase):
    """The cycle by rpcclient, which is Samba's own client library, in every
    context that it has."""

    shares = ('vm', 'vmbtrfs')
    settings = ['registry shares = yes']

    def rpc(self, command):
        return lab.run('rpcclient', '-p', str(self.server.port), '-U',
                       'hvrsadmin%hvrsadmin', 'ncacn_np:127.0.0.1[sign]',
                       '-c', command)

    def cycle(self, share, context, how):
        old, new = lab.pattern(100000, 1), lab.pattern(100000, 2)
        self.put(share, 'disk.vhdx', old)
        self.assertIn('supports shadow copy requests',
                      self.rpc('fss_is_path_sup ' + share))
        out = self.rpc('fss_create_expose %s %s %s' % (context, how, share))
        found = re.search(r'(\S+)\((\S+)\): share (\S+) exposed as a '
                          r'snapshot of', out)
        self.assertIsNotNone(found, out)
        set_id, copy, name = found.groups()
        self.put(share, 'disk.vhdx', new)
        file = self.connect(name).create(
            'disk.vhdx', access=smb2.READ_ONLY, disposition=smb2.OPEN)
        self.assertEqual(old, file.read(0, len(old)))
        file.close()
        self.assertIn(' has an associated shadow-copy',
                      self.rpc('fss_has_shadow_copy ' + share))
        ids = '%s %s %s' % (share, set_id, copy)
        self.assertIn('share %s is a shadow-copy of' % name,
                      self.rpc('fss_get_mapping ' + ids))
        self.assertIn('marked recovery complete',
                      self.rpc('fss_recovery_complete ' + set_id))
        with self.assertRaises(smb2.StatusError):
            self.connect(name).create('new', disposition=smb2.CREATE_NEW)
        self.assertIn('shadow-copy deleted', self.rpc('fss_delete ' + ids))
        self.assertIn('does not have', self.rpc('fss_has_shadow_copy ' +
                                                share))
        self.assert_nothing_left()

    def test_every_context(self):
        self.assertIn('FSRVP versions from 1 to 1',
                      self.rpc('fss_get_sup_version'))
        for share in self.shares:
            for context in ('backup', 'file_share_backup', 'nas_rollback',
                            'app_rollback'):
                for how in ('ro', 'rw'):
                    with self.subTest((share, context, how)):
                        self.cycle(share, context, how)


class NoRegistry(FsrvpCase):
    shares = ('vm',)
    settings = ['hvrs:rpc integrity = no']

    def test_it_is_refused_and_the_line_named(self):
        self.expect(fsrvp.NOT_SUPPORTED,
                    self.client.is_path_supported(unc('vm'))[0])
        # Samba 4.17 starts its helpers with their usual log.
        logs = ''.join(open(path, errors='replace').read() for path in
                       glob.glob(self.server.directory + '/*') +
                       glob.glob('/var/log/samba/log.rpcd_fsrvp')
                       if os.path.isfile(path))
        self.assertIn('registry shares = yes', logs)


class Smbtorture(FsrvpCase):
    """Samba's own suite, with the statuses it expects where the document
    says otherwise."""

    shares = ('fsrvp_share',)
    base = {'fsrvp_share': '/srv/xfs/'}
    settings = SETTINGS + ['hvrs:fsrvp legacy statuses = yes',
                           'fss:sequence timeout = 1']
    options = ['vfs objects = shadow_copy2 hvrs']
    tests = ['rpc.fsrvp']
    count = 10
    if lab.SERIES < (4, 22):
        # Its first test ends smbtorture itself, before it comes to us.
        tests = ['rpc.fsrvp.fsrvp.' + name for name in (
            'sc_share_io', 'enum_created', 'bad_id', 'sc_set_abort',
            'create_simple', 'set_ctx', 'get_version', 'is_path_supported',
            'seq_timeout')]
        count = 9

    def test_rpc_fsrvp(self):
        done = subprocess.run(
            ['smbtorture', '//127.0.0.1/fsrvp_share', '-p',
             str(self.server.port), '-U', 'hvrsadmin%hvrsadmin',
             '--option=fss:sequence timeout=1', *self.tests],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120)
        results = [line for line in done.stdout.split('\n')
                   if line.split(':')[0] in ('success', 'failure', 'error',
                                             'skip')]
        self.assertEqual([], [line for line in results
                              if not line.startswith('success')],
                         done.stdout[:5000])
        self.assertEqual(self.count, len(results), results)


class SmbtortureBtrfs(Smbtorture):
    base = {'fsrvp_share': '/srv/btrfs/'}


if __name__ == '__main__':
    unittest.main()
