"""What the commands of ``numlstm`` do, a file each of the command's name; ``cli`` declares their options.

In: paths, plain values and a function that prints a line. Out: files and lines. Nothing here knows click. The commands
export, bench and demo are folders of their own.
"""
