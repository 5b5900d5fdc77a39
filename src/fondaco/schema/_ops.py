"""Op-codes of the batch codec: the machine language between `program`/`_encode` (compilers) and the kernels (interpreters).

An instruction is WIDTH int64 words: the op-code and its operands. Two instruction sets, one for each direction. What every op does is
said once, here. The numbers are no format: they live in memory only and may change.
"""

from __future__ import annotations

from typing import Final

WIDTH: Final = 6  # words of one instruction

# -- decoding: bytes -> buffers -----------------------------------------------------------------------------------------------------
#
# Registers: `position` and `end` in the row's bytes, `index` = entry of the current scope that is being written, `pc`, and a stack.
# A *scope* is a set of buffers that grow by the same entries: the rows, the items of one array, the values of one union branch.
# "buf" is a number in the table of buffer addresses; "scope" a number in the tables of entries used and reserved.

# these begin with a varint; the interpreter reads it, in one place, before it looks at the op
INT: Final = 0  #                 buf                                   store 32 bits
INT_AS_LONG: Final = 1  #         buf                                   promotions of 32 bits
INT_AS_FLOAT: Final = 2  #        buf
INT_AS_DOUBLE: Final = 3  #       buf
LONG: Final = 4  #                buf                                   store 64 bits
LONG_AS_FLOAT: Final = 5  #       buf
LONG_AS_DOUBLE: Final = 6  #      buf
INT_BELOW: Final = 7  #           buf, bound                            store 32 bits, 0 <= value < bound (a time of day)
LONG_BELOW: Final = 8  #          buf, bound                            the same with 64 bits
ENUM: Final = 9  #                buf, table, symbols                   store table[value]; -1 there: the reader knows no such symbol
STRING: Final = 10  #             offsets buf, data buf                 copy text after checking it
BYTES: Final = 11  #              offsets buf, data buf                 copy
DECIMAL_BYTES: Final = 12  #      buf, width, table                     to `width` bytes, little-endian; table: bounds
UUID_STRING: Final = 13  #        buf                                   36 characters to 16 bytes
SKIP_BYTES: Final = 14  #                                               pass over text or bytes
OPTIONAL: Final = 15  #           validity buf, null branch, pc         null: jump; else mark valid and go on
UNION: Final = 16  #              table, branches                       jump to table[branch]
BLOCK: Final = 17  #              scope, item bytes, offsets buf, pc    items of so many bytes at least; none left: jump
ARRAY_FIXED: Final = 18  #        scope, item bytes, offsets buf, buf   copy whole blocks until none is left
SKIP_BLOCK: Final = 19  #         scope, item bytes, -, pc              as BLOCK, keeping nothing; jumps over sized blocks
SKIP_ARRAY_FIXED: Final = 20  #   -, item bytes                         pass over items of constant size
VARINT_OPS: Final = 21  # ops below this number begin with a varint

BOOLEAN: Final = 21  #            buf
FIXED: Final = 22  #              buf, size                             copy `size` bytes (float, double, vectors, fixed)
FLOAT_AS_DOUBLE: Final = 23  #    buf
DECIMAL_FIXED: Final = 24  #      buf, width, table, size
DURATION: Final = 25  #           buf                                   months, days, milliseconds to Arrow's months, days, nanoseconds
VECTOR_INT8: Final = 26  #        scale buf, buf, dim
SKIP_FIXED: Final = 27  #         -, size                               pass over `size` bytes
SKIP_VARINT: Final = 28  #                                              pass over an int, a long or an enum
VALID: Final = 29  #              validity buf                          mark the entry as not null
FILL_OFFSET: Final = 30  #        offsets buf                           an empty string, list or map under a null
NEXT: Final = 31  #               scope, pc of the body, pc of BLOCK    end of an item
BRANCH: Final = 32  #             scope, types buf, offsets buf, type   begin a value of a dense union's branch
BRANCH_END: Final = 33  #         scope
CONSTANT: Final = 34  #           address, bytes                        read from there (a default) ...
CONSTANT_END: Final = 35  #                                             ... and back to the row
JUMP: Final = 36  #               pc
REFUSE: Final = 37  #             reason                                the reader has no place for this value
END: Final = 38  #                                                      the row is complete

# words of the state that the decode kernel keeps between calls: it stops when a buffer is full and goes on where it was
STATUS: Final = 0
ROW: Final = 1
PC: Final = 2
POSITION: Final = 3
LIMIT: Final = 4  # `end`
INDEX: Final = 5
DEPTH: Final = 6  # of the stack
FREE_ITEMS: Final = 7  # how many more items without bytes the row may have
DETAIL: Final = 8  # the value in question
NEEDED: Final = 9  # bytes or entries that the full buffer must hold
STATE_WORDS: Final = 10

# statuses
BEGIN_ROW: Final = 0
RUNNING: Final = 1
DONE: Final = 2
GROW_DATA: Final = 3  # DETAIL: the buffer
GROW_SCOPE: Final = 4  # DETAIL: the scope
FIRST_FAULT: Final = 10
TRUNCATED: Final = 10
VARINT_TOO_LONG: Final = 11
INT_RANGE: Final = 12
BAD_BOOLEAN: Final = 13
NEGATIVE_LENGTH: Final = 14
TOO_LONG: Final = 15
BAD_UTF8: Final = 16
BAD_BRANCH: Final = 17
BAD_SYMBOL: Final = 18
UNKNOWN_SYMBOL: Final = 19
TOO_MANY_ITEMS: Final = 20
BAD_BLOCK_SIZE: Final = 21
TRAILING: Final = 22
BAD_UUID: Final = 23
BAD_DECIMAL: Final = 24
BAD_DURATION: Final = 25
BAD_TIME: Final = 26
REFUSED: Final = 27
EMPTY_ITEMS: Final = 28

PREFETCH_ROWS: Final = 6  # how far ahead of the interpreter the next rows' first bytes are asked for
