"""The commands of ``numlstm``, one file each, of the command's name: its options, and its work if that is small.

The work of export, bench and demo is in packages of their own. In: the command line. Out: files and lines of text.
`cli` imports a command's module when the command is used.
"""
