// Part of the program only where it is built with the sanitizers: what MindSpore Lite's own libraries keep until the
// process ends is not what is looked for.

extern "C" {

const char* __lsan_default_suppressions() { return "leak:libmindspore\nleak:libmsplugin\n"; }

const char* __lsan_default_options() { return "print_suppressions=0"; }

// Libraries stay, so that what they kept is known as theirs.
int dlclose(void*) { return 0; }

}  // extern "C"
