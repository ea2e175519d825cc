// Only in builds with sanitizers: they must not report what MindSpore Lite's own libraries keep until the process ends.

extern "C" {

const char* __lsan_default_suppressions() { return "leak:libmindspore\nleak:libmsplugin\n"; }

const char* __lsan_default_options() { return "print_suppressions=0"; }

// Libraries stay loaded, so that their leaks can be attributed to them.
int dlclose(void*) { return 0; }

}  // extern "C"
