"""Samba's witness service beside hvrs on a cluster: a share for Hyper-V says
that it is there, and a client that it tells of the end of its node has its
handles on another one."""

import os
import subprocess
import unittest

import samba.credentials
import samba.param
from samba.dcerpc import witness

import smb2
from cluster_handles import Case, Client, come_back
from handles import H, R, W
from nodes import ADDRESS, cluster, on

CONTINUOUS, SCALE_OUT, CLUSTER = 0x10, 0x20, 0x40


@unittest.skipUnless(os.path.exists('/usr/libexec/samba/rpcd_witness'),
                     'this Samba has no witness service')
class Witness(Case):

    def witness(self, node):
        settings = samba.param.LoadParm()
        settings.load_default()
        who = samba.credentials.Credentials()
        who.guess(settings)
        who.set_username('hvrs')
        who.set_password('hvrs')
        who.set_kerberos_state(samba.credentials.DONT_USE_KERBEROS)
        service = witness.witness('ncacn_ip_tcp:%s[sign]' % ADDRESS[node],
                                  settings, who)
        service.request_timeout = 60
        return service

    def told(self, service, registration):
        """The next notification: its kind and what it is about."""
        reply = service.AsyncNotify(registration)
        return reply.type, [(one.name, one.type) if
                            reply.type == witness.WITNESS_NOTIFY_RESOURCE_CHANGE
                            else [address.ipv4 for address in one.addr]
                            for one in reply.messages]

    def registered(self, service, node):
        name = service.GetInterfaceList().interfaces[0].group_name
        return service.Register(witness.WITNESS_V1, name, ADDRESS[node],
                                'HV1')

    def test_the_share_says_so(self):
        for node in range(3):
            self.assertEqual(
                CONTINUOUS | SCALE_OUT | CLUSTER,
                self.client(node).tree.capabilities & 0xF0)

    def test_all_nodes_are_listed(self):
        for node in range(3):
            there = self.witness(node).GetInterfaceList().interfaces
            self.assertEqual(
                [(address, witness.WITNESS_STATE_AVAILABLE)
                 for address in ADDRESS],
                sorted((one.ipv4, one.state) for one in there))
            # Not of the node that is asked: it would go with it.
            self.assertEqual(
                [address for address in ADDRESS if address != ADDRESS[node]],
                sorted(one.ipv4 for one in there if
                       one.flags & witness.WITNESS_INFO_WITNESS_IF))

    def test_the_end_of_a_node_is_told(self):
        client = self.client(0)
        file = client.open(self.name(), R | H | W, sharing=0)
        file.write(0, b'before')
        service = self.witness(1)
        registration = self.registered(service, 0)
        # In a process of its own: the library waits with Python's lock held.
        killer = subprocess.Popen(['sh', '-c', 'sleep 1; exec '
                                   '/hvrs/tests/lab/cluster kill-node 0'])
        try:
            self.assertEqual(
                (witness.WITNESS_NOTIFY_RESOURCE_CHANGE,
                 [(ADDRESS[0], witness.WITNESS_RESOURCE_STATE_UNAVAILABLE)]),
                self.told(service, registration))
            self.assertEqual(0, killer.wait())
            again = come_back(client, file, 2)
            self.assertEqual(b'before', again.read(0, 6))
        finally:
            cluster('start-node', '0')
        self.assertEqual(smb2.OK, again.close())

    def test_a_client_is_asked_to_move(self):
        """As an administrator does before a node is serviced."""
        client = self.client(0)
        file = client.open(self.name(), R | H | W, sharing=0)
        file.write(0, b'before')
        service = self.witness(1)
        registration = self.registered(service, 0)
        on(2, 'net', 'witness', 'client-move', '--witness-apply-to-all',
           '--witness-new-ip=' + ADDRESS[2])
        self.assertEqual((witness.WITNESS_NOTIFY_CLIENT_MOVE,
                          [[ADDRESS[2]]]), self.told(service, registration))
        # It goes over while its connection to the other node is there yet.
        moved = Client(2, guid=client.guid)
        self.addCleanup(moved.drop)
        again = come_back(moved, file, 2)
        self.assertEqual(b'before', again.read(0, 6))
        service.UnRegister(registration)
        self.assertEqual(smb2.OK, again.close())


if __name__ == '__main__':
    unittest.main()
