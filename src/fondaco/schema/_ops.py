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
INT_WITHIN: Final = 7  #          buf, low, high                        store 32 bits, low <= value <= high (a date or time)
LONG_WITHIN: Final = 8  #         buf, low, high                        the same with 64 bits
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
FIXED: Final = 22  #              buf, size                             copy `size` bytes (float, double, fixed, vectors)
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
STALE: Final = 5  # the kernel was compiled from other sources
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
BAD_TIME: Final = 25
REFUSED: Final = 26
EMPTY_ITEMS: Final = 27

# The bytes of rows to come are asked for while this one is read. 1000 rows of 570 bytes, drawn at random from 1.5 GB: 97 ns a row; 225 ns
# with only the first line of each, 257 ns without; 4 to 12 rows ahead make no difference.
PREFETCH_ROWS: Final = 6
PREFETCH_BYTES: Final = 1024

# -- encoding: Arrow buffers -> bytes -----------------------------------------------------------------------------------------------
#
# Registers: `target` = where the next byte goes, `index` = entry of the arrays at hand, `pc`, and a stack of frames of FRAME words.
# Operands are addresses of Arrow buffers, moved so that entry 0 is the first of the batch; offsets are int64 and begin at 0. There is no
# check of room: the binder (`_bind`) adds up what every value takes at most.

PUT_INT32: Final = 0  #               values                                an int or a long of 32 bits
PUT_INT64: Final = 1  #               values
PUT_WITHIN: Final = 2  #              values, value bytes, low, high        the same of 4 or 8 bytes, checked
PUT_FIXED: Final = 3  #               values, size                          copy
PUT_BOOLEAN: Final = 4  #             bits, bit
PUT_TEXT: Final = 5  #                offsets, data                         check, then length and bytes
PUT_BYTES: Final = 6  #               offsets, data
PUT_EXACT: Final = 7  #               offsets, data, size                   bytes that must be so many, without a length
PUT_SIZED: Final = 8  #               values, size                          a length, then bytes of constant number
PUT_ENUM: Final = 9  #                indices                               int32; -1: no such symbol
PUT_DECIMAL: Final = 10  #            values, width, table                  to the shortest big-endian form, with a length; table: bounds
PUT_DECIMAL_FIXED: Final = 11  #      values, width, table, size
PUT_UUID: Final = 12  #               values                                16 bytes to 36 characters, with a length
PUT_UUID_TEXT: Final = 13  #          offsets, data, as bytes               36 characters, checked, in lower case; or their 16 bytes
PUT_DURATION: Final = 14  #           values                                months, days, nanoseconds
PUT_VECTOR: Final = 15  #             values, starts or 0, size, item bytes    copy; the items of an entry begin at starts[entry]
PUT_QUANTIZED: Final = 16  #          values, starts or 0, dim              float32 to a scale and int8
PUT_SCALED: Final = 17  #             scales, values, dim                   int8 with their scale
PUT_CONSTANT: Final = 18  #           address, bytes                        a default, a branch index
PUT_OPTIONAL: Final = 19  #           bits, bit, null branch, branch, pc    the branch index; after a null: jump
REQUIRE: Final = 20  #                bits, bit                             an error where null
REQUIRE_NULL: Final = 21  #           bits, bit                             an error where not null; bits 0: everywhere
REFUSE_MARKED: Final = 22  #          marks                                 an error where the byte is not 0
PUT_LIST: Final = 23  #               offsets, pc                           the number of items; none: jump
PUT_ARRAY: Final = 24  #              offsets, data, item bytes             whole arrays of items of constant size
PUT_NEXT: Final = 25  #               pc of the body                        end of an item
CHOOSE: Final = 26  #               types, places, table                  the value at places[entry] of a branch: jump to table[type]
CHOOSE_END: Final = 27
PUT_JUMP: Final = 28  #               pc
PUT_END: Final = 29  #                                                      the row is complete

FRAME: Final = 3  # words: entry outside, end, first entry

# what a value can be refused for
BAD_NULL: Final = 40
BAD_VALUE: Final = 41  # out of range, unknown symbol, not UTF-8, wrong length: the binder knows what was expected
