# Makes the manual shmd-protocol(7) from what the code is made from.
#
#   awk -f protocol-manual.awk operations.def shmd-protocol.7.in > shmd-protocol.7
#
# operations.def comes first; status.h and protocol.h are read beside it. The template is copied, except that
#   a line @OPERATIONS@, @STATUSES@, @LIMITS@ or @STRUCTURES@ becomes that table,
#   @NAME@ within a line becomes the value of the constant NAME of protocol.h.
# The comments in those files are the descriptions. What this program does not understand ends it with
# an error: a page that is wrong without a word is worse than none. POSIX awk only: mawk and gawk both run it.

BEGIN {
        size_of["uint8_t"] = size_of["char"] = 1
        size_of["uint16_t"] = 2
        size_of["uint32_t"] = 4
        size_of["uint64_t"] = 8
}

NR == 1 {
        directory = FILENAME
        sub(/[^\/]*$/, "", directory)
        read_statuses(directory "status.h")
        read_protocol(directory "protocol.h")
}

NR == FNR {
        read_operation_line($0)
        next
}

/^@OPERATIONS@$/ { print_operations(); next }
/^@STATUSES@$/ { print_statuses(); next }
/^@LIMITS@$/ { print_limits(); next }
/^@STRUCTURES@$/ { print_structures(); next }
{ print with_constants($0) }

END {
        if (!failed && operations == 0)
                fail("no operation found in " directory "operations.def")
        exit failed
}

function fail(words) {
        print "protocol-manual.awk: " words | "cat >&2"
        failed = 1
        exit 1
}

# --- C comments ---

# Takes the comments out of a line of C and collects their words in `comment`, over several lines if need be;
# gives what is left of the line. A blank line forgets the comment, which was about nothing in particular.
function without_comments(line, code, at) {
        if (line ~ /^[ \t]*$/)
                comment = ""
        code = ""
        while (line != "") {
                if (in_comment) {
                        at = index(line, "*/")
                        collect(at ? substr(line, 1, at - 1) : line)
                        if (!at)
                                return code
                        in_comment = 0
                        line = substr(line, at + 2)
                } else {
                        at = index(line, "/*")
                        if (!at)
                                return code line
                        code = code substr(line, 1, at - 1)
                        in_comment = 1
                        comment = ""
                        line = substr(line, at + 2)
                }
        }
        return code
}

function collect(words) {
        sub(/^[ \t]*\*?[ \t]*/, "", words)
        sub(/[ \t]+$/, "", words)
        if (words != "")
                comment = comment (comment == "" ? "" : " ") words
}

function take_comment(words) {
        words = comment
        comment = ""
        return words
}

# --- operations.def ---

function read_operation_line(line, code, f) {
        code = without_comments(line)
        if (code ~ /^[ \t]*$/)
                return
        # "", number, NAME, name, request, reply, tail, fds in, fds out, right, flags, ""
        if (code !~ /^OPERATION\(.*\)[ \t]*$/ || split(code, f, /[ \t]*[(),][ \t]*/) != 12)
                fail("operations.def: not understood: " line)

        operations++
        op_number[operations] = f[2]
        op_name[operations] = f[3]
        op_request[operations] = f[5]
        op_reply[operations] = f[6]
        op_tail[operations] = f[7]
        op_fds_in[operations] = f[8]
        op_fds_out[operations] = f[9]
        op_right[operations] = f[10]
        op_flags[operations] = f[11]
        op_words[operations] = take_comment()
        if (op_words[operations] == "")
                fail("operations.def: no comment says what " f[3] " does")
        if (!(("struct shmd_wire_" f[5]) in size_of) || !(("struct shmd_wire_" f[6]) in size_of))
                fail("operations.def: " f[3] ": protocol.h does not have its structures")
}

function right_in_words(right) {
        if (right == "NONE")
                return "the operation itself decides"
        if (right == "SEE")
                return "the segment exists"
        if (right == "OWNER")
                return "the segment exists, and the caller owns it or is an administrator"
        fail("operations.def: unknown right " right)
}

function flags_in_words(flags) {
        if (flags == "0")
                return ""
        if (flags == "ONEWAY")
                return "one-way: never answered"
        if (flags == "FIRST")
                return "the first request of a connection"
        if (flags == "LATE")
                return "may be answered after requests that came later"
        if (flags == "ONCE")
                return "done at most once, also if it is repeated"
        if (flags == "EVENT")
                return "sent by the daemon, unasked"
        fail("operations.def: unknown flags " flags)
}

function descriptors_in_words(fds_in, fds_out) {
        if (fds_in == 0 && fds_out == 0)
                return "none"
        return fds_in " with the request, " (fds_out == 0 ? "none" : "at most " fds_out) " with the reply"
}

function print_structure_name(name, tail) {
        print ".Vt struct shmd_wire_" name (tail == 1 ? " ," : "")
        if (tail == 1)
                print "then its tail"
}

function print_operations(i) {
        for (i = 1; i <= operations; i++) {
                print ".Ss " op_number[i] " " op_name[i]
                print_text(op_words[i])
                print ".Pp"
                print ".Bl -tag -width Descriptors -compact"
                print ".It Request"
                if (op_flags[i] == "EVENT")
                        print "none"
                else
                        print_structure_name(op_request[i], op_tail[i])
                print (op_flags[i] == "EVENT" ? ".It Message" : ".It Reply")
                if (op_flags[i] == "ONEWAY")
                        print "none"
                else
                        print_structure_name(op_reply[i], op_flags[i] == "EVENT" && op_tail[i])
                print ".It Descriptors"
                print descriptors_in_words(op_fds_in[i], op_fds_out[i])
                if (op_flags[i] != "EVENT") {
                        print ".It Right"
                        print right_in_words(op_right[i])
                }
                if (op_flags[i] != "0") {
                        print ".It Order"
                        print flags_in_words(op_flags[i])
                }
                print ".El"
        }
}

# --- status.h ---

function read_statuses(path, line, f, got) {
        while ((got = (getline line < path)) > 0) {
                if (line !~ /^[ \t]*STATUS\([0-9]/)
                        continue
                if (!match(line, /".*"/))
                        fail(path ": not understood: " line)
                statuses++
                status_words[statuses] = substr(line, RSTART + 1, RLENGTH - 2)
                split(line, f, /[ \t]*[(,][ \t]*/)
                status_number[statuses] = f[2]
                status_name[statuses] = "SHMD_" f[3]
                status_errno[statuses] = f[4]
        }
        close(path)
        if (got < 0 || statuses == 0)
                fail("no status found in " path)
}

function print_statuses(i, width) {
        for (i = 1; i <= statuses; i++)
                if (length(status_name[i]) > length(width))
                        width = status_name[i]
        print ".Bl -tag -width \"00 " width "\" -compact"
        print ".It Li \"\\ 0 SHMD_OK\""
        print "done"
        for (i = 1; i <= statuses; i++) {
                print ".It Li \"" padded(status_number[i], 2) " " status_name[i] "\""
                print_text(status_words[i])
                print ".Pq Er " status_errno[i]
        }
        print ".El"
}

# --- protocol.h ---

function read_protocol(path, line, got) {
        comment = ""
        while ((got = (getline line < path)) > 0)
                read_protocol_line(line)
        close(path)
        if (got < 0 || structures == 0)
                fail("no structure found in " path)
        comment = ""
}

function read_protocol_line(line, code, f) {
        if (line ~ /^#/) {
                read_define(line)
                return
        }
        code = without_comments(line)
        if (code ~ /^(struct|enum) [a-z_]+ \{$/) {
                split(code, f, " ")
                begin_structure(f[1] " " f[2])
        } else if (code ~ /^};/)
                end_structure()
        else if (code !~ /^[ \t]*$/) {
                if (open_structure == "")
                        fail("protocol.h: not understood: " line)
                add_member(code)
        } else if (unfinished && !in_comment) {
                member_words[structures, members] = member_words[structures, members] " " take_comment()
                unfinished = 0
        }
}

function read_define(line, f) {
        if (line !~ /^#define/)
                return
        split(line, f, /[ \t]+/)
        sub(/u$/, "", f[3])
        constant[f[2]] = f[3]
        limits++
        limit_name[limits] = f[2]
        limit_words[limits] = take_comment()
}

function begin_structure(name) {
        structures++
        next_value = 0
        structure_name[structures] = name
        structure_words[structures] = take_comment()
        open_structure = name
        members = offset = 0
}

function end_structure() {
        structure_members[structures] = members
        structure_size[structures] = size_of[open_structure] = offset
        open_structure = comment = ""
}

# A comment before a member or behind it is about that member; one that goes on in the next line is completed there.
function add_member(code) {
        if (code ~ /_COUNT,$/) # how many there are is no member
                return
        members++
        if (open_structure ~ /^enum/)
                add_constant(code)
        else
                add_field(code)
        member_words[structures, members] = take_comment()
        unfinished = in_comment
}

# "NAME,", "NAME = 3," or "NAME = 1u << 3,"
function add_constant(code, f) {
        gsub(/[ \t,]/, "", code)
        if (split(code, f, "=") == 2)
                next_value = f[2] ~ /^1u<</ ? 2 ^ substr(f[2], 5) : f[2]
        member_name[structures, members] = f[1]
        member_place[structures, members] = next_value
        next_value++
}

# "type name;" or "type name[count];": the offset follows from the sizes; a field must be aligned to its size
function add_field(code, f, n, type, name, count, unit) {
        gsub(/^[ \t]+|;.*$/, "", code)
        if (!match(code, /[a-z_]+(\[[0-9]+\])?$/))
                fail("protocol.h: not understood: " code)
        name = substr(code, RSTART)
        type = substr(code, 1, RSTART - 2)
        if (!(type in size_of))
                fail("protocol.h: unknown type: " code)
        count = 1
        if (split(name, f, /[\[\]]/) > 1)
                count = f[2]
        unit = size_of[type]
        if (offset % (unit > 8 ? 8 : unit) != 0)
                fail("protocol.h: " open_structure ": " name " is not aligned")
        member_name[structures, members] = type " " name
        member_place[structures, members] = offset
        offset += unit * count
}

function print_limits(i) {
        print ".Bl -tag -width SHMD_GENERATION_SLOTS"
        for (i = 1; i <= limits; i++) {
                print ".It Dv " limit_name[i]
                print constant[limit_name[i]] "."
                if (limit_words[i] != "")
                        print_text(limit_words[i])
        }
        print ".El"
}

function print_structures(i, j, width) {
        for (i = 1; i <= structures; i++) {
                print ".Ss " structure_name[i]
                if (structure_name[i] ~ /^struct/)
                        print structure_size[i] " bytes."
                if (structure_words[i] != "")
                        print_text(structure_words[i])
                width = ""
                for (j = 1; j <= structure_members[i]; j++)
                        if (length(member_name[i, j]) > length(width))
                                width = member_name[i, j]
                print ".Bl -tag -width \"000 " width "\" -compact"
                for (j = 1; j <= structure_members[i]; j++) {
                        print ".It Li \"" padded(member_place[i, j], 3) " " member_name[i, j] "\""
                        if (member_words[i, j] != "")
                                print_text(member_words[i, j])
                }
                print ".El"
        }
}

# --- mdoc ---

# Words that roff must not take for its own; each sentence on its line, as mdoc(7) wants them
function print_text(words) {
        gsub(/\\/, "\\e", words)
        if (words ~ /^[.']/)
                words = "\\&" words
        while (match(words, /[A-Za-z0-9)][.] [A-Z]/)) {
                print substr(words, 1, RSTART + 1)
                words = substr(words, RSTART + 3)
        }
        print words
}

# A number flush right; blanks that roff keeps
function padded(value, width) {
        value = value ""
        while (length(value) < width)
                value = "@" value
        gsub(/@/, "\\ ", value)
        return value
}

# The template's line with its @NAME@ replaced
function with_constants(line, name) {
        while (match(line, /@[A-Z_]+@/)) {
                name = substr(line, RSTART + 1, RLENGTH - 2)
                if (!(name in constant))
                        fail("shmd-protocol.7.in: unknown word @" name "@")
                line = substr(line, 1, RSTART - 1) constant[name] substr(line, RSTART + RLENGTH)
        }
        return line
}
