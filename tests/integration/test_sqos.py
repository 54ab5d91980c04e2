"""Storage QoS: the rows of Microsoft's suite, every rule of the request, and
flows and policies seen and changed by hvrsctl."""

import json
import os
import random
import struct
import subprocess
import threading
import time
import unittest
import uuid

import handles
import lab
import rsvd
import smb2
from smb2 import (ACCESS_DENIED, INVALID_DEVICE_REQUEST, INVALID_PARAMETER,
                  OK)

CONTROL = 0x00090350
NOT_FOUND = 0xC0000225
NO_RESOURCES = 0xC000009A
CANCELLED = 0xC0000120
REVISION_MISMATCH = 0xC0000059
SET_FLOW, SET_POLICY, PROBE, STATUS, COUNT = 1, 2, 4, 8, 16
NULL = uuid.UUID(int=0)
SHARE_POLICY = '6e7f1b1c-2f3f-4b43-9d0b-5b7f0c1d2e3f'


def request(options, flow=NULL, policy=NULL, initiator=NULL, version=0x101,
            limit=0, reservation=0, bandwidth=0, name='', node='',
            counters=(0, 0, 0, 0), kilobytes=0, offsets=None, shape=None):
    fixed = 128 if (shape or version) == 0x101 else 112
    one, two = name.encode('utf-16-le'), node.encode('utf-16-le')
    at = offsets or (fixed if one else 0, fixed + len(one) if two else 0)
    data = struct.pack('<HHI', version, 0, options) + flow.bytes_le + \
        policy.bytes_le + initiator.bytes_le + \
        struct.pack('<QQHHHHQQQQ', limit, reservation, at[0], len(one),
                    at[1], len(two), *counters)
    if fixed == 128:
        data += struct.pack('<QQ', bandwidth, kilobytes)
    return data + one + two


class Case(lab.Case):
    shares = {'vm': ['vfs objects = hvrs', 'hvrs:storage qos = yes'],
              'off': (lab.DIRECTORIES['vm'], ['vfs objects = hvrs'])}

    def setUp(self):
        super().setUp()
        self.file = self.open('qos.vhdx')
        self.flow = uuid.uuid4()

    def ask(self, *arguments, file=None, room=4096, **how):
        """(status, reply as a dictionary or None)"""
        status, out = (file or self.file).fsctl(
            CONTROL, request(*arguments, **how), room)
        if not out:
            return status, None
        version, _, options = struct.unpack_from('<HHI', out)
        self.assertEqual(96 if version == 0x101 else 88, len(out))
        self.assertEqual(0, options)
        reply = {'version': version}
        for i, key in enumerate(('flow', 'policy', 'initiator')):
            reply[key] = uuid.UUID(bytes_le=out[8 + 16 * i:24 + 16 * i])
        reply['live'], reply['status'], reply['max'], reply['min'], \
            reply['base'] = struct.unpack_from('<IIQQI', out, 56)
        if version == 0x101:
            (reply['bandwidth'],) = struct.unpack_from('<Q', out, 88)
        return status, reply

    def expect_ask(self, wanted, *arguments, **how):
        status, reply = self.ask(*arguments, **how)
        self.expect(wanted, status)
        return reply

    def hvrsctl(self, *arguments, text=None):
        return subprocess.run(
            ['env', 'SMB_CONF_PATH=' + self.server.config, 'hvrsctl', 'qos',
             *arguments], input=text, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)

    def policy(self, *arguments):
        done = self.hvrsctl('policy', 'add', '--name', 'test', *arguments)
        self.assertEqual(0, done.returncode, done.stderr)
        return uuid.UUID(done.stdout.strip())


class Microsoft(Case):
    """The tests of the Microsoft suite, restated."""

    def test_detector(self):
        for version in (0x101, 0x100):
            reply = self.expect_ask(OK, SET_FLOW | STATUS, uuid.uuid4(),
                                    version=version)
            self.assertEqual(version, reply['version'])

    def governed(self, reply, policy, initiator):
        self.assertEqual((self.flow, policy, initiator, 200, 100, 8192, 0),
                         tuple(reply[key] for key in (
                             'flow', 'policy', 'initiator', 'max', 'min',
                             'base', 'status')))
        self.assertGreater(reply['live'], 1000)
        if reply['version'] == 0x101:
            self.assertEqual(1600, reply['bandwidth'])

    def test_set_policy(self):
        policy, initiator = self.policy('--min', '100', '--max', '200',
                                        '--bandwidth', '1600'), uuid.uuid4()
        for version in (0x100, 0x101):
            self.flow = uuid.uuid4()
            self.assertIsNone(self.expect_ask(
                OK, SET_FLOW, self.flow, version=version))
            self.assertIsNone(self.expect_ask(
                OK, SET_POLICY, NULL, policy, initiator, name='VM1',
                node='HV1', version=version))
            self.governed(self.expect_ask(OK, STATUS, version=version),
                          policy, initiator)
            initiator = uuid.uuid4()

    def test_probe_policy(self):
        policy, initiator = self.policy('--min', '100', '--max', '200',
                                        '--bandwidth', '1600'), uuid.uuid4()
        self.expect_ask(OK, PROBE, self.flow, policy, initiator, name='VM1',
                        node='HV1')
        self.governed(self.expect_ask(OK, STATUS), policy, initiator)

    def test_update_counters(self):
        self.expect_ask(OK, SET_FLOW, self.flow)
        self.expect_ask(OK, SET_POLICY)
        self.file.write(0, bytes(8192))
        self.expect_ask(OK, COUNT, counters=(1, 1, 500, 500), kilobytes=8)

    def test_invalid_protocol_version(self):
        self.expect_ask(REVISION_MISMATCH, SET_FLOW, self.flow,
                        version=0xFFFF, shape=0x101)

    def test_invalid_option(self):
        self.expect_ask(INVALID_PARAMETER, 0, self.flow)

    def test_invalid_policy_id(self):
        self.expect_ask(INVALID_PARAMETER, PROBE, self.flow, uuid.uuid4(),
                        limit=1)

    def test_reservation_greater_than_limit(self):
        self.expect_ask(INVALID_PARAMETER, PROBE, self.flow, limit=1,
                        reservation=2)

    def test_invalid_name_offsets(self):
        for offsets in ((0, 134), (128 + 12 - 3 + 1, 134), (128, 0),
                        (128, 128 + 12 - 3 + 1)):
            self.expect_ask(INVALID_PARAMETER, PROBE, self.flow, name='VM1',
                            node='HV1', offsets=offsets)

    def test_policy_to_an_open_without_flow(self):
        self.expect_ask(NOT_FOUND, SET_POLICY)

    def test_invalid_request_type(self):
        """The form of 1.0 that says it is 1.1."""
        self.expect_ask(INVALID_PARAMETER, SET_POLICY, shape=0x100,
                        version=0x101, name='FileServerProtocolTestSuite',
                        node='somewhere')


class Rules(Case):
    def test_too_short(self):
        for version, size in ((0x100, 112), (0x101, 128)):
            whole = request(SET_FLOW, self.flow, version=version)
            self.assertEqual(size, len(whole))
            for length in (0, 1, 7, 8, 111, size - 1):
                status, _ = self.file.fsctl(CONTROL, whole[:length], 4096)
                self.expect(INVALID_PARAMETER, status)
            self.expect(OK, self.file.fsctl(CONTROL, whole, 4096)[0])

    def test_values(self):
        big = 1000000001
        for how in ({'limit': big}, {'reservation': big}, {'bandwidth': big},
                    {'policy': uuid.uuid4(), 'reservation': 1},
                    {'policy': uuid.uuid4(), 'bandwidth': 1}):
            policy = how.pop('policy', NULL)
            self.expect_ask(INVALID_PARAMETER, PROBE, self.flow, policy,
                            **how)
        self.expect_ask(NOT_FOUND, STATUS)
        self.expect_ask(OK, PROBE, self.flow, reservation=5)
        reply = self.expect_ask(OK, STATUS)
        self.assertEqual((0, 5), (reply['max'], reply['min']))

    def test_room_for_the_reply(self):
        self.expect_ask(OK, SET_FLOW, self.flow)
        for version, needs in ((0x100, 88), (0x101, 96)):
            for room in (0, 79, 80, 87, 95, needs - 1):
                if room < needs:
                    self.expect_ask(INVALID_PARAMETER, STATUS, room=room,
                                    version=version)
            self.expect_ask(OK, STATUS, room=needs, version=version)

    def test_names_up_to_their_bound(self):
        self.expect_ask(OK, PROBE, self.flow, name='x' * 256)
        self.expect_ask(OK, SET_FLOW, NULL)
        self.expect_ask(INVALID_PARAMETER, PROBE, uuid.uuid4(),
                        name='x' * 257)

    def test_detach(self):
        self.expect_ask(OK, SET_FLOW, self.flow)
        self.expect_ask(OK, STATUS)
        self.expect_ask(OK, SET_FLOW, NULL)
        self.expect_ask(NOT_FOUND, STATUS)
        self.expect_ask(NOT_FOUND, COUNT)

    def test_probe_of_an_attached_open_does_nothing(self):
        self.expect_ask(OK, PROBE, self.flow, limit=100)
        self.expect_ask(OK, PROBE, uuid.uuid4(), limit=200)
        reply = self.expect_ask(OK, STATUS)
        self.assertEqual((self.flow, 100), (reply['flow'], reply['max']))

    def test_probe_wants_a_flow(self):
        self.expect_ask(INVALID_PARAMETER, PROBE, NULL)

    def test_everything_at_once(self):
        reply = self.expect_ask(OK, 0x1F, self.flow, limit=50,
                                counters=(1, 1, 1, 1))
        self.assertEqual((self.flow, 50), (reply['flow'], reply['max']))
        self.expect_ask(OK, 0xFFFFFFE0 | STATUS)

    def test_a_failing_request_changes_nothing(self):
        self.expect_ask(OK, PROBE, self.flow, limit=100)
        self.expect_ask(INVALID_PARAMETER, SET_FLOW | SET_POLICY,
                        uuid.uuid4(), limit=5, reservation=6)
        reply = self.expect_ask(OK, STATUS)
        self.assertEqual((self.flow, 100), (reply['flow'], reply['max']))

    def test_unknown_policy_is_a_status(self):
        policy = uuid.uuid4()
        self.expect_ask(OK, PROBE, self.flow, policy)
        reply = self.expect_ask(OK, STATUS)
        self.assertEqual((2, 0, 0), (reply['status'], reply['max'],
                                     reply['min']))
        # Made with that id, it heals.
        done = self.hvrsctl('policy', 'add', '--name', 'late', '--max',
                            '300', '--id', str(policy))
        self.assertEqual(0, done.returncode, done.stderr)
        reply = self.expect_ask(OK, STATUS)
        self.assertEqual((0, 300), (reply['status'], reply['max']))

    def test_two_opens_and_two_processes_share_a_flow(self):
        self.expect_ask(OK, PROBE, self.flow, limit=100)
        second = self.open('other.vhdx')
        third = self.open('qos.vhdx', tree=self.connect())
        for file in (second, third):
            self.expect_ask(OK, SET_FLOW, self.flow, file=file)
            self.assertEqual(100, self.expect_ask(OK, STATUS,
                                                  file=file)['max'])
        self.expect_ask(OK, SET_POLICY, limit=77, file=third)
        self.assertEqual(77, self.expect_ask(OK, STATUS)['max'])

    def test_a_flow_is_its_makers(self):
        self.expect_ask(OK, PROBE, self.flow, limit=100)
        os.chmod(self.path('qos.vhdx'), 0o666)
        theirs = self.open('qos.vhdx', tree=self.connect(user='other'),
                           access=smb2.READ_ONLY, disposition=smb2.OPEN)
        for options in (SET_FLOW, PROBE, SET_FLOW | SET_POLICY,
                        SET_FLOW | STATUS):
            self.expect_ask(ACCESS_DENIED, options, self.flow, limit=1,
                            file=theirs)
        self.assertEqual(100, self.expect_ask(OK, STATUS)['max'])
        self.expect_ask(OK, SET_FLOW, uuid.uuid4(), file=theirs)

    def test_directories_and_shares_without_it(self):
        root = self.tree.create('t', access=smb2.READ_ONLY,
                                disposition=smb2.OPEN,
                                options=smb2.DIRECTORY)
        self.expect_ask(INVALID_DEVICE_REQUEST, SET_FLOW, self.flow,
                        file=root)
        other = self.open('qos.vhdx', tree=self.connect('off'))
        self.expect_ask(INVALID_DEVICE_REQUEST, SET_FLOW, self.flow,
                        file=other)

    def test_random_requests(self):
        random.seed(3)
        whole = request(0x1F, self.flow, name='VM', node='HV')
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(random.randrange(1, 6)):
                data[random.randrange(len(data))] = random.randrange(256)
            self.file.fsctl(CONTROL,
                            bytes(data[:random.randrange(len(data) + 1)]),
                            random.choice((0, 80, 88, 96, 4096)))
        self.server.alive()


class Policies(Case):
    def flow_of(self, policy, initiator, name):
        file = self.open(name)
        self.expect_ask(OK, PROBE, uuid.uuid4(), policy, initiator,
                        file=file)
        return file

    def count(self, file, ios):
        return self.expect_ask(OK, STATUS | COUNT, file=file,
                               counters=(ios, ios, ios, ios))

    def test_a_change_reaches_a_live_flow(self):
        policy = self.policy('--max', '200')
        file = self.flow_of(policy, uuid.uuid4(), 'a')
        self.assertEqual(200, self.expect_ask(OK, STATUS, file=file)['max'])
        self.assertEqual(0, self.hvrsctl('policy', 'set', str(policy),
                                         '--max', '500').returncode)
        self.assertEqual(500, self.expect_ask(OK, STATUS, file=file)['max'])
        self.assertEqual(0, self.hvrsctl('policy', 'remove',
                                         str(policy)).returncode)
        self.assertEqual(2, self.expect_ask(OK, STATUS, file=file)['status'])

    def test_policies_survive_a_restart(self):
        policy = self.policy('--max', '200')
        self.server.kill()
        self.server.start()
        self.tree = self.connect()
        file = self.flow_of(policy, uuid.uuid4(), 'a')
        self.assertEqual(200, self.expect_ask(OK, STATUS, file=file)['max'])

    def test_dedicated_is_for_each_machine(self):
        policy = self.policy('--max', '200', '--dedicated')
        first, second = uuid.uuid4(), uuid.uuid4()
        a = self.flow_of(policy, first, 'a')
        b = self.flow_of(policy, second, 'b')
        self.count(a, 10)
        self.count(b, 10)
        self.assertEqual(200, self.count(a, 0)['max'])
        self.assertEqual(200, self.count(b, 0)['max'])

    def split(self, policy, initiators, rates):
        """What each flow may do once its demand is known."""
        files = [self.flow_of(policy, who, 'f%d' % i)
                 for i, who in enumerate(initiators)]
        for file in files:
            self.count(file, 0)
        for _ in range(4):
            time.sleep(1.05)
            got = [self.count(file, int(rate * 1.05))['max']
                   for file, rate in zip(files, rates)]
        return got

    def test_aggregated_is_shared_by_demand(self):
        policy = self.policy('--max', '1000', '--aggregated')
        who = [uuid.uuid4() for _ in range(3)]
        # All want all: a third each.
        for got in self.split(policy, who, (1000, 1000, 1000)):
            self.assertAlmostEqual(333, got, delta=30)

    def test_who_wants_less_leaves_it_to_others(self):
        policy = self.policy('--max', '1000', '--aggregated')
        who = [uuid.uuid4() for _ in range(2)]
        busy, quiet = self.split(policy, who, (2000, 100))
        self.assertAlmostEqual(900, busy, delta=60)
        self.assertGreater(quiet, 300)

    def test_two_disks_of_a_machine_share_a_dedicated_policy(self):
        policy = self.policy('--max', '200', '--dedicated')
        machine = uuid.uuid4()
        got = self.split(policy, [machine, machine], (500, 500))
        self.assertAlmostEqual(100, got[0], delta=10)
        self.assertAlmostEqual(100, got[1], delta=10)

    def test_hvrsctl_tells_policies_and_flows(self):
        policy = self.policy('--min', '10', '--max', '20')
        self.expect_ask(OK, PROBE, self.flow, policy, uuid.uuid4(),
                        name='Machine', node='Host')
        flows = json.loads(self.hvrsctl('flows', '--json').stdout)
        (mine,) = [one for one in flows if one['id'] == str(self.flow)]
        self.assertEqual(('Machine', 'Host', str(policy)),
                         (mine['initiator'], mine['node'], mine['policy']))
        self.assertIn('t/qos.vhdx', mine['file'])
        self.assertIn('Machine on Host', self.hvrsctl(
            'flows', '--sort', 'initiator').stdout)
        saved = self.hvrsctl('policy', 'list', '--json').stdout
        self.assertEqual(0, self.hvrsctl('policy', 'remove',
                                         str(policy)).returncode)
        self.assertNotIn(str(policy), self.hvrsctl('policy', 'list').stdout)
        done = self.hvrsctl('policy', 'import', text=saved)
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn(str(policy), self.hvrsctl('policy', 'list').stdout)

    def test_hvrsctl_refuses_nonsense(self):
        for arguments in (('policy', 'add'), ('policy', 'add', '--name', 'x',
                                              '--min', '5', '--max', '4'),
                          ('policy', 'add', '--name', 'x', '--max', '-1'),
                          ('policy', 'add', '--name', 'x', '--max',
                           '1000000001'),
                          ('policy', 'set', 'nothing'), ('policy', 'remove'),
                          ('policy', 'remove', str(uuid.uuid4())),
                          ('policy',), ('what',)):
            self.assertEqual(2, self.hvrsctl(*arguments).returncode,
                             arguments)
        self.assertEqual(2, self.hvrsctl('policy', 'import',
                                         text='[{"id": "x"}]').returncode)


class Many(Case):
    # In the long form they end by age as well, two minutes after their last
    # request, and so many of two users have no room at once.
    flows = int(os.environ.get('HVRS_LONG') or 0) * 100000 or 3000

    def memory(self):
        total = 0
        for pid in self.server.children():
            with open('/proc/%d/smaps_rollup' % pid) as maps:
                total += sum(int(line.split()[1]) for line in maps
                             if line.startswith('Private_Dirty:'))
        return total

    def test_flows_that_come_and_go_leave_nothing(self):
        os.chmod(self.path('qos.vhdx'), 0o666)
        theirs = self.open('qos.vhdx', tree=self.connect(user='other'),
                           access=smb2.READ_ONLY, disposition=smb2.OPEN)
        table = self.server.directory + '/lock/hvrs_sqos_flows.tdb'
        full = 0x10000
        for i in range(self.flows):
            if i == min(self.flows // 3, 2 * full):
                before, size = self.memory(), os.stat(table).st_size
            file = theirs if i % 2 else self.file
            while True:
                status, _ = self.ask(SET_FLOW | SET_POLICY, uuid.uuid4(),
                                     limit=100, file=file)
                if i < full or status != NO_RESOURCES:
                    break
                time.sleep(2)
            self.expect(OK, status)
        self.assertLess(self.memory(), before + 1024)
        if self.flows > 2 * full:
            self.assertLess(os.stat(table).st_size, 1.25 * size)


class Asker(threading.Thread):
    """A client that always asks for more, one request after another."""

    def __init__(self, case, name, size=4096, read=False, tree=None,
                 file=None):
        super().__init__(daemon=True)
        self.file = file or case.open(name, tree=tree or case.connect())
        self.file.write(0, bytes(1 << 20))
        self.size, self.read = size, read
        self.done, self.over, self.error = 0, False, None

    def run(self):
        try:
            while not self.over:
                if self.read:
                    self.file.read(0, self.size)
                else:
                    self.file.write(0, bytes(self.size))
                self.done += 1
        except Exception as error:
            self.error = error

    def end(self):
        self.over = True
        self.join(30)
        assert self.error is None, self.error


class Enforced(Case):
    shares = {'vm': ['vfs objects = hvrs', 'hvrs:storage qos = yes',
                     'hvrs:qos enforce = yes'],
              'disks': (lab.DIRECTORIES['vm'], [
                  'vfs objects = hvrs', 'hvrs:storage qos = yes',
                  'hvrs:qos enforce = yes', 'hvrs:shared disks = yes']),
              'governed': (lab.DIRECTORIES['vm'], [
                  'vfs objects = hvrs', 'hvrs:storage qos = yes',
                  'hvrs:qos enforce = yes',
                  'hvrs:qos policy = %s' % SHARE_POLICY])}
    # What is done at once, of a burst and by what is under way.
    SPARE = 16

    def limited(self, asker, flow=None, **how):
        self.expect_ask(OK, PROBE, flow or uuid.uuid4(), file=asker.file,
                        **how)
        return asker

    def rate(self, askers, seconds=2.0):
        """What all did a second, as each sees it."""
        for asker in askers:
            if not asker.is_alive():
                asker.start()
        before = [asker.done for asker in askers]
        begun = time.monotonic()
        time.sleep(seconds)
        after = [asker.done for asker in askers]
        elapsed = time.monotonic() - begun
        return sum(after) - sum(before), elapsed

    def check(self, askers, limit, seconds=2.0):
        count, elapsed = self.rate(askers, seconds)
        self.assertLessEqual(count, limit * (elapsed + 0.05) + self.SPARE)
        # It is the limit that holds it back, and not more than that.
        self.assertGreater(count, limit * elapsed / 2 - self.SPARE)

    def test_the_limit_of_a_flow(self):
        asker = self.limited(Asker(self, 'a'), limit=200)
        self.check([asker], 200)
        asker.end()

    def test_reads_and_large_requests_count(self):
        for size, read, limit in ((4096, True, 200), (65536, False, 100),
                                  (65536, True, 100)):
            asker = self.limited(Asker(self, 'a', size, read),
                                 limit=limit * ((size + 8191) // 8192))
            self.check([asker], limit)
            asker.end()

    def test_bandwidth(self):
        asker = self.limited(Asker(self, 'a', 65536), bandwidth=6400)
        self.check([asker], 100)
        asker.end()

    def test_one_flow_of_several_processes(self):
        flow = uuid.uuid4()
        askers = [self.limited(Asker(self, 'f%d' % i), flow, limit=200)
                  for i in range(3)]
        self.check(askers, 200)
        for asker in askers:
            asker.end()

    def test_an_aggregated_policy_of_several_processes(self):
        policy = self.policy('--max', '300', '--aggregated')
        askers = [Asker(self, 'f%d' % i) for i in range(4)]
        for asker in askers:
            self.expect_ask(OK, PROBE, uuid.uuid4(), policy, uuid.uuid4(),
                            file=asker.file)
        self.check(askers, 300, 3)
        for asker in askers:
            asker.end()

    def test_a_changed_policy_is_held_to(self):
        policy = self.policy('--max', '50')
        asker = Asker(self, 'a')
        self.expect_ask(OK, PROBE, uuid.uuid4(), policy, uuid.uuid4(),
                        file=asker.file)
        self.check([asker], 50)
        # Nobody asks for the status meanwhile.
        self.hvrsctl('policy', 'set', str(policy), '--max', '150')
        time.sleep(2)
        self.check([asker], 150)
        self.hvrsctl('policy', 'remove', str(policy))
        time.sleep(2)
        count, elapsed = self.rate([asker])
        self.assertGreater(count, 150 * elapsed + 50)
        asker.end()

    def test_the_policy_of_a_share(self):
        done = self.hvrsctl('policy', 'import', text=json.dumps([{
            'id': SHARE_POLICY, 'name': 'all', 'type': 'aggregated',
            'minimum': 0, 'maximum': 200, 'bandwidth': 0}]))
        self.assertEqual(0, done.returncode, done.stderr)
        askers = [Asker(self, 'f%d' % i, tree=self.connect('governed'))
                  for i in range(2)]
        time.sleep(1.1)
        self.check(askers, 200, 3)
        flows = json.loads(self.hvrsctl('flows', '--json').stdout)
        mine = [flow for flow in flows if flow['policy'] == SHARE_POLICY]
        self.assertEqual(['server'], sorted({f['owner'] for f in mine}))
        # Nobody gets such a flow by its id.
        self.expect_ask(ACCESS_DENIED, SET_FLOW, uuid.UUID(mine[0]['id']))
        for asker in askers:
            asker.end()
        # A flow of the client's own goes before.
        asker = self.limited(Asker(self, 'f0', tree=self.connect('governed')))
        count, elapsed = self.rate([asker])
        self.assertGreater(count, 200 * elapsed + 100)
        asker.end()

    def test_a_shared_disk(self):
        image = rsvd.make_disk(self.path('disk.vhdx'), 64 * lab.MIB)
        path = 't/disk.vhdx'
        asker = Asker(self, None, file=rsvd.Disk(self.connect('disks'), path))
        self.limited(asker, limit=100)
        self.check([asker], 100)
        asker.end()
        asker.file.close()
        # Hours of work, and the end.
        disk = rsvd.Disk(self.connect('disks'), path)
        self.expect_ask(OK, PROBE, uuid.uuid4(), file=disk, limit=1)
        ids = [disk.write_send(lab.MIB * (2 + i), bytes([i + 1]) * 65536)
               for i in range(4)]
        self.expect(OK, disk.close())
        wanted = [disk.tree.connection.wait(ident).status for ident in ids]
        self.assertEqual([OK, CANCELLED, CANCELLED, CANCELLED], wanted)
        disk = rsvd.Disk(self.connect('disks'), path)
        for i in range(4):
            self.assertEqual(bytes([i + 1 if i == 0 else 0]) * 65536,
                             disk.read(lab.MIB * (2 + i), 65536))
        self.expect(OK, disk.close())
        lab.run('qemu-img', 'check', image)

    def test_content(self):
        self.expect_ask(OK, PROBE, self.flow, limit=400)
        ids = [self.file.write_send(i * 4096, lab.pattern(4096, i))
               for i in range(60)]
        for ident in ids:
            self.expect(OK, self.tree.connection.wait(ident).status)
        for i in range(60):
            self.assertEqual(lab.pattern(4096, i),
                             self.file.read(i * 4096, 4096))

    def test_what_waits_does_not_hold_up_the_end(self):
        """Hours of work asked for, and the file closed."""
        self.expect_ask(OK, PROBE, self.flow, limit=1)
        ids = [self.file.write_send(i * 65536, bytes([i + 1]) * 65536)
               for i in range(8)]
        other = self.open('other')
        other.write(0, b'others go on')
        self.expect(OK, self.file.close())
        answers = [self.tree.connection.wait(ident).status for ident in ids]
        self.assertEqual(OK, answers[0])
        for i, status in enumerate(answers):
            got = lab.content(self.path('qos.vhdx'), i * 65536, 65536)
            self.assertIn(got, (bytes([i + 1]) * 65536,) if status == OK
                          else (b'', bytes(65536)))
        self.server.alive()

    def test_a_connection_lost_while_requests_wait(self):
        tree = self.connect()
        file = self.open('lost', tree=tree)
        self.expect_ask(OK, PROBE, uuid.uuid4(), limit=1, file=file)
        for i in range(8):
            file.write_send(i * 65536, bytes(65536))
        pid = handles.child_of(self.server, tree)
        tree.connection.close()
        handles.gone(pid)
        self.server.alive()
        self.open('lost', disposition=smb2.OPEN).close()


class Outlives(handles.Case):
    """A persistent handle comes back in its flow."""

    shares = {'vm': ['vfs objects = hvrs', 'hvrs:storage qos = yes'],
              'vmalias': (lab.DIRECTORIES['vm'], ['vfs objects = hvrs'])}

    def ask(self, file, *arguments, **how):
        status, out = file.fsctl(CONTROL, request(*arguments, **how), 4096)
        self.assertEqual(OK, status)
        return (uuid.UUID(bytes_le=out[8:24]),
                struct.unpack_from('<QQ', out, 64)) if out else None

    def test_the_flow_of_a_handle(self):
        for way in self.WAYS:
            with self.subTest(way):
                flow = uuid.uuid4()
                client = self.client()
                file = client.open(self.name(way), state=7)
                self.ask(file, PROBE, flow, limit=321, reservation=12,
                         name='VM', node='HV')
                self.lose(way, client)
                client.connect()
                again = client.reconnect(file)
                self.assertEqual((flow, (321, 12)),
                                 self.ask(again, STATUS))
                # And the next time; unless the client let go of it.
                self.ask(again, SET_FLOW)
                self.lose(way, client)
                client.connect()
                again = client.reconnect(again)
                status, _ = again.fsctl(CONTROL, request(STATUS), 4096)
                self.assertEqual(NOT_FOUND, status)
                again.close()

    def test_storage_qos_was_switched_off(self):
        client = self.client()
        file = client.open(self.name(), state=7)
        self.ask(file, PROBE, uuid.uuid4(), limit=321)
        self.server.kill()
        client.drop()
        self.server.shares = dict(self.server.shares,
                                  vm=['vfs objects = hvrs'])
        self.server.start()
        client.connect()
        again = client.reconnect(file)
        status, _ = again.fsctl(CONTROL, request(STATUS), 4096)
        self.assertEqual(INVALID_DEVICE_REQUEST, status)
        again.close()


if __name__ == '__main__':
    unittest.main()
