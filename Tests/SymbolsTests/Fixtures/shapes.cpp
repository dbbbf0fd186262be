// C++ names: namespaces, overloads, templates, an anonymous namespace, an operator.
namespace shapes {
namespace {
__attribute__((noinline)) int hidden(int x) { return x * 3 + 1; }
}
template <typename T> __attribute__((noinline)) T area(T w, T h) { return w * h + (T)hidden(1); }
struct Box {
    int w, h;
    __attribute__((noinline)) int size() const { return area<int>(w, h) + (int)area<long>(w, h); }
    __attribute__((noinline)) Box operator+(Box o) const { return {w + o.w, h + hidden(o.h)}; }
};
}
extern "C" int shapes_main(int a) {
    shapes::Box box{a, a + 1};
    return (box + box).size();
}
