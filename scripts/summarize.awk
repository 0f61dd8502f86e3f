# summarize.awk reads the output of one Go test binary run with -test.v=test2json, prints what failing tests wrote,
# and writes "passed failed skipped" to the file COUNTS. STATUS is the binary's exit code.
#
# In that mode the testing package puts a byte 0x16 before each of its own lines, so that nothing a test prints can be
# taken for one. Subtests count like tests.

function remember(line) { output[current] = output[current] line "\n" }

{
	mark = index($0, "\026")
	if (!mark) {
		remember($0)
		next
	}
	if (mark > 1)
		remember(substr($0, 1, mark - 1))
	line = substr($0, mark + 1)
	if (match(line, /^=== (RUN|NAME|PAUSE|CONT) +/)) {
		current = substr(line, RLENGTH + 1)
	} else if (match(line, /^ *--- (PASS|FAIL|SKIP): /)) {
		result = substr(line, RLENGTH - 5, 4)
		split(substr(line, RLENGTH + 1), word, " ")
		count[result]++
		current = word[1]
		if (result == "FAIL") {
			printf "%s%s\n", output[current], line
			delete output[current]
		}
	} else if (line ~ /^(PASS|FAIL)$/) {
		current = ""
	} else {
		remember(line)
	}
}

END {
	# A crash or a time-out ends the binary without a verdict on the test that was running.
	if (STATUS != 0 && current != "") {
		printf "%sexit code %d in %s\n", output[current], STATUS, current
	}
	if (STATUS != 0 && count["FAIL"] == 0)
		count["FAIL"]++
	printf "%d %d %d\n", count["PASS"], count["FAIL"], count["SKIP"] >COUNTS
}
