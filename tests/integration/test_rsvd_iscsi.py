"""libiscsi's test suite on a shared disk, through the tunnel: an iSCSI target
of ours (iscsi_target.py) takes every command to smbd.  What is skipped is
named with its reason; everything else must pass."""

import re
import subprocess
import unittest

import iscsi_target
import lab
import rsvd

FAMILIES = (
    'CompareAndWrite', 'GetLBAStatus', 'Inquiry', 'Mandatory', 'ModeSense6',
    'PreventAllow', 'PrinReadKeys', 'PrinReportCapabilities',
    'PrinServiceactionRange', 'ProutClear', 'ProutPreempt', 'ProutRegister',
    'ProutReserve', 'Read10', 'Read12', 'Read16', 'Read6', 'ReadCapacity10',
    'ReadCapacity16', 'ReportLUNs', 'ReportSupportedOpcodes', 'Reserve6',
    'StartStopUnit', 'TestUnitReady', 'Unmap', 'Verify10', 'Verify12',
    'Verify16', 'Write10', 'Write12', 'Write16', 'WriteSame10',
    'WriteSame16', 'WriteVerify10', 'WriteVerify12', 'WriteVerify16')

# Of the suite's own skips, those that may be.
SKIPS = (
    'does not support 0-blocks',	# WSNZ is set, as recommended
    'not removable',
    'Media is not removable',
    'does not have a full-provision',
    'EXTENDED COPY',			# the protocol refuses offload
    'medium is not removable',
    'Device does not support',
    'Logical unit is fully provisioned',
    'not implemented',
)

# Tests that ask for what this disk must not do, or are wrong themselves.
EXCEPTED = {
    # It means to change the CDB's length, and sends it unchanged (a command
    # that is right, and miscompares).
    'CompareAndWrite': {'InvalidDataOutSize'},
    # There is no reset of a target or a unit in MS-RSVD.
    'Reserve6': {'TargetColdReset', 'TargetWarmReset', 'LUNReset'},
}


class Iscsi(rsvd.Case):

    def setUp(self):
        super().setUp()
        rsvd.make_disk(self.path('disk.vhdx'), 128 * lab.MIB)
        if self._testMethodName == 'test_GetLBAStatus':
            # The suite miscounts with larger physical sectors.
            rsvd.set_physical(self.path('disk.vhdx'), 512)
        self.keeper = self.disk()
        self.target = iscsi_target.Target(
            lambda initiator: self.disk(tree=self.server.connect('vm'),
                                        initiator=initiator))
        self.target.start()
        self.addCleanup(self.target.close)

    def family(self, name):
        if 'SCSI.%s\n' % name not in lab.run('iscsi-test-cu', '-l'):
            self.skipTest('this iscsi-test-cu has no family ' + name)
        url = 'iscsi://127.0.0.1:%d/%s/0' % (self.target.port,
                                             iscsi_target.NAME)
        done = subprocess.run(
            ['iscsi-test-cu', '--dataloss', '-n', '-t', 'SCSI.' + name, url],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120)
        ran = re.search(r'tests +(\d+) +(\d+) +(\d+) +(\d+)', done.stdout)
        self.assertIsNotNone(ran, done.stdout)
        failed = set(re.findall(r'Test (\w+) had failures', done.stdout))
        self.assertEqual(set(), failed - EXCEPTED.get(name, set()),
                         done.stdout[-3000:])
        self.assertGreater(int(ran[3]), 0)
        for line in re.findall(r'\[SKIPPED\].*', done.stdout):
            self.assertTrue(any(skip in line for skip in SKIPS), line)
        self.assertEqual([], self.target.failures)


for family in FAMILIES:
    def test(self, family=family):
        self.family(family)
    setattr(Iscsi, 'test_' + family, test)


if __name__ == '__main__':
    unittest.main()
