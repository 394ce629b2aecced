"""The command line: a module a group of commands, and the reference pages made from it."""
