"""smb.conf: what is wrong with an option is told in the log, once per
connect, with share, option, value and what is accepted; and hvrsctl lists the
options there are."""

import re
import unittest

import fsctl
import lab
import smb2


listed = unittest.skipIf(lab.SERIES < (4, 22),
                         'Samba 4.17 cannot list the options of a share')


class Options(unittest.TestCase):
    def server(self, *options, settings=(), **how):
        server = lab.Server({'vm': ['vfs objects = hvrs'] + list(options)},
                            settings, **how)
        self.addCleanup(server.stop)
        server.connect('vm').connection.close()
        return server

    def told(self, server, *words):
        """The one line of the log that holds all these words."""
        found = [line for line in server.lines('hvrs') if
                 all(word in line for word in words)]
        self.assertEqual(1, len(found), server.text())
        return found[0]

    def silent(self, server):
        self.assertEqual([], server.lines(r'hvrs:'), server.text())

    def trims(self, server, share='vm'):
        root = server.connect(share).create(
            '', access=smb2.READ_ATTRIBUTES, disposition=smb2.OPEN,
            options=smb2.DIRECTORY)
        return bool(root.info(11, 2)[1][16] & 8)

    def test_right_options_are_silent(self):
        server = self.server(
            'hvrs:trim = yes', 'hvrs:zero data = auto',
            'hvrs : block cloning = TRUE', 'hvrs:Sparse VDL = off',
            'hvrs:virtual disk files = *.vhdx, *.img',
            settings=['hvrs:core hooks = auto'])
        self.silent(server)
        self.assertTrue(self.trims(server))

    @listed
    def test_unknown_option(self):
        server = self.server('hvrs:warp drive = yes')
        line = self.told(server, 'warpdrive')
        for word in ('share vm', 'unknown option', '= yes', 'no effect',
                     'hvrsctl options'):
            self.assertIn(word, line)

    @listed
    def test_near_miss_names_the_option_meant(self):
        for wrong, right in (('trimm', 'trim'), ('zerodatta', 'zero data'),
                             ('block clonning', 'block cloning')):
            server = self.server('hvrs:%s = yes' % wrong)
            line = self.told(server, wrong.replace(' ', ''), 'unknown')
            self.assertIn('did you mean "hvrs:%s"' % right, line)

    def test_unknown_option_in_global(self):
        server = self.server(settings=['hvrs:warp drive = yes'])
        self.assertIn('[global]: unknown', self.told(server, 'warpdrive'))

    @listed
    def test_global_option_in_a_share(self):
        server = self.server('hvrs:core hooks = no')
        line = self.told(server, 'core hooks')
        self.assertIn('belongs into [global]', line)
        self.assertIn('share vm', line)
        self.assertTrue(self.trims(server), 'the hooks are on')

    def test_bad_value_is_named_and_the_default_used(self):
        server = self.server('hvrs:trim = perhaps')
        line = self.told(server, 'perhaps')
        for word in ('share vm', 'hvrs:trim', 'auto, yes or no', 'default'):
            self.assertIn(word, line)
        self.assertTrue(self.trims(server))

    def test_each_bad_value_of_each_switch(self):
        names = [name for name in lab.features()]
        server = self.server(*['hvrs:%s = 2' % name for name in names])
        for name in names:
            self.told(server, 'hvrs:%s = 2' % name)

    def test_bad_list_of_names(self):
        server = self.server('hvrs:virtual disk files = a/b')
        line = self.told(server, 'virtual disk files')
        for word in ('share vm', 'a/b', 'file name patterns'):
            self.assertIn(word, line)

    def test_bad_value_in_global_for_all_shares(self):
        server = self.server(settings=['hvrs:trim = perhaps'])
        self.assertIn('share vm', self.told(server, 'perhaps'))

    def test_bad_value_of_core_hooks(self):
        server = self.server(settings=['hvrs:core hooks = perhaps'])
        # Each client's process loads the module, that of the port probe too.
        found = server.lines('perhaps')
        self.assertIn(len(found), (1, 2), server.text())
        self.assertIn('core hooks = perhaps is none of auto, yes or no',
                      found[0])
        self.assertTrue(self.trims(server))

    def test_default_for_all_shares_in_global(self):
        server = self.server(settings=['hvrs:trim = no'])
        self.silent(server)
        self.assertFalse(self.trims(server))

    def test_share_overrides_global(self):
        server = self.server('hvrs:trim = yes', settings=['hvrs:trim = no'])
        self.assertTrue(self.trims(server))

    def test_yes_that_cannot_be_had(self):
        server = lab.Server({'vmext4': ['vfs objects = hvrs',
                                        'hvrs:block cloning = yes']})
        self.addCleanup(server.stop)
        server.connect('vmext4').connection.close()
        line = self.told(server, 'block cloning')
        for word in ('vmext4', 'cannot be had', 'share blocks'):
            self.assertIn(word, line)

    def test_every_word_for_on_and_off(self):
        for word in ('yes', 'True', 'ON', '1', 'auto'):
            with self.subTest(word):
                self.assertTrue(self.trims(self.server('hvrs:trim = ' +
                                                       word)))
        for word in ('no', 'False', 'OFF', '0'):
            with self.subTest(word):
                self.assertFalse(self.trims(self.server('hvrs:trim = ' +
                                                        word)))

    def test_strict_allocate_keeps_blocks(self):
        """trim = auto is off where the share allocates up front."""
        self.assertFalse(self.trims(self.server('strict allocate = yes')))
        self.assertTrue(self.trims(self.server('strict allocate = yes',
                                               'hvrs:trim = yes')))

    def test_module_without_preload(self):
        server = self.server(preload=False)
        self.assertEqual([], server.lines('cannot|refuse|not loaded'))
        self.assertTrue(self.trims(server))


class Documents(unittest.TestCase):
    def listed(self, *words):
        return lab.run('hvrsctl', 'options', *words).split('\n')[:-1]

    def test_features_are_options(self):
        features = lab.features()
        self.assertGreater(len(features), 5)
        text = '\n'.join(self.listed())
        for name in features:
            self.assertIn(name, text)


if __name__ == '__main__':
    unittest.main()
