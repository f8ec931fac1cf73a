# Makes of messages.def what people read: the journal's message catalog, and the list in shmd-messages(7).
#
#   awk -f messages.awk -v format=catalog messages.def > shmd.catalog
#   awk -f messages.awk -v format=manual messages.def shmd-messages.7.in > shmd-messages.7
#
# In the template a line @MESSAGES@ becomes the list. What this program does not understand ends it with an error.
# POSIX awk only: mawk and gawk both run it.

FNR == 1 { file++ }

file == 1 { read_line($0); next }
/^@MESSAGES@$/ { print_manual(); next }
{ print }

END {
        if (!failed && messages == 0)
                fail("no message found")
        if (!failed && format == "catalog")
                print_catalog()
        exit failed
}

function fail(words) {
        print "messages.awk: " words | "cat >&2"
        failed = 1
        exit 1
}

# The comments before a row, without the marks; the first in the file is about all of it.
function read_line(line, f) {
        if (line ~ /^\/\*.*\*\/$/)
                return
        if (line ~ /^\/\*/)
                comment = ""
        else if (line ~ /^ \*\//)
                return
        else if (line ~ /^ \*/) {
                sub(/^ \*[ \t]*/, "", line)
                comment = comment (comment == "" || line == "" ? "" : "\n") line
        } else if (line ~ /^MESSAGE\(/)
                read_message(line)
        else if (line != "")
                fail("not understood: " line)
}

# MESSAGE(NAME, "id", LEVEL, "subject")
function read_message(line, f) {
        if (split(line, f, /"/) != 5 || f[5] != ")")
                fail("not understood: " line)
        gsub(/[, ]/, "", f[3])
        if (length(f[2]) != 32 || f[2] ~ /[^0-9a-f]/ || f[2] in seen)
                fail("no id of its own: " line)
        if (comment == "")
                fail("no comment says what it means: " line)
        seen[f[2]] = 1
        messages++
        level[messages] = tolower(f[3])
        id[messages] = f[2]
        subject[messages] = f[4]
        meaning[messages] = comment
        comment = ""
}

function print_catalog(i) {
        print "# The messages of shmd, for journalctl -x: made from messages.def."
        for (i = 1; i <= messages; i++) {
                print ""
                print "-- " id[i]
                print "Subject: " subject[i]
                print "Defined-By: shmd"
                print "Documentation: man:shmd-messages(7)"
                print ""
                print meaning[i]
                print ""
                # Not @SHMD_UID@ and the like: journalctl shows the bare words where an entry lacks the field.
                print "Whom and what it is about, as far as it applies, is in SHMD_UID, SHMD_PID, SHMD_SEGMENT and SHMD_ID."
        }
}

function print_manual(i, text) {
        print ".Bl -tag -width Ds"
        for (i = 1; i <= messages; i++) {
                text = meaning[i]
                gsub(/\\/, "\\e", text)
                gsub(/shmd\.conf\(5\)/, "\n.Xr shmd.conf 5\n", text)
                gsub(/[ \t]*\n+[ \t]*/, "\n", text)
                text = one_sentence_a_line(text)
                print ".It " subject[i]
                print ".Pq Cm " level[i] "\n.Pp"
                print ".Li MESSAGE_ID=" id[i]
                print ".Pp"
                print text
        }
        print ".El"
}

function one_sentence_a_line(text, done) {
        done = ""
        while (match(text, /[A-Za-z0-9)"][.] ["A-Z]/)) {
                done = done substr(text, 1, RSTART + 1) "\n"
                text = substr(text, RSTART + 3)
        }
        return done text
}
