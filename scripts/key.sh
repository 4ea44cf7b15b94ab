# For scripts that keep results, which source it. `key WORD...` prints what tells apart everything that makes a result: the words of a
# command, the contents of the files that they name (of a folder its files, by name, size and time), the program, and this folder.
key() {
    {
        pwd
        for word in "$@"; do
            printf '%s\n' "$word"
            if [ -f "$word" ]; then
                cksum < "$word"
            elif [ -d "$word" ]; then
                find -L "$word" -type f -exec ls -lLn {} + | LC_ALL=C sort
            fi
        done
    } | sha256sum | cut -c 1-12
}
