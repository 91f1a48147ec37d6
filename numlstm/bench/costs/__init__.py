"""What numlstm takes by itself: beyond the kernel of a call, in memory, to load, for sessions and callers."""
